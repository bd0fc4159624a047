// SPDX-License-Identifier: Apache-2.0
// How OpenMP's worker threads wait for work. The library asks the environment
// once, before main() runs, and offers no other way. So a program that calls
// SleepWhileWaiting() has a getenv() of its own (threads.cc), which answers in
// place of a variable that nobody has set.
#pragma once

namespace motet::math {

// Call first in main(). Workers that wait then spin for some 0.1 ms and sleep:
// where several programs share the processors (nodes that train beside a
// coordinator), spinning on makes each of them several times slower. As with
// OMP_WAIT_POLICY=passive and a short GOMP_SPINCOUNT; where one of these is
// set, it counts, so people can decide otherwise. Does nothing where the
// library has asked our getenv(), as libgomp of GCC 12 does; otherwise
// replaces the process by itself once, with both set, which costs a second
// start. argv: main's own.
void SleepWhileWaiting(char** argv);

}  // namespace motet::math
