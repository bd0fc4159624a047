// SPDX-License-Identifier: Apache-2.0
// How OpenMP's worker threads wait for work. The library reads it from the
// environment before main() runs, so a program that wants another way has to
// start itself again.
#pragma once

namespace motet::math {

// Call first in main(). Workers that wait then spin for some 0.1 ms and sleep:
// where several programs share the processors (nodes that train beside a
// coordinator), spinning on makes each of them several times slower. Replaces
// the process by itself once, with OMP_WAIT_POLICY=passive and a short
// GOMP_SPINCOUNT; returns at once where one of these is set, so people can
// decide otherwise. argv: main's own.
void SleepWhileWaiting(char** argv);

}  // namespace motet::math
