// SPDX-License-Identifier: Apache-2.0
// What is fuzzed: every parser of bytes from strangers, each as a function
// that must return, and must keep the promises that it checks (abort
// otherwise). True: the input was taken. Shared by the tests and the
// libFuzzer programs.
#pragma once

#include <string>

#include "tests/fuzz/mutate.h"

namespace motet::fuzz {

// Every byte of every tensor that is taken can be read; they tile the data.
bool Safetensors(const std::string& bytes);
Corpus SafetensorsCorpus();

// A config that is taken is written and read back the same, and its weights
// can be listed.
bool Config(const std::string& json);
Corpus ConfigCorpus();

// A tokenizer that is taken gives ids within its vocabulary for any bytes.
bool Tokenizer(const std::string& json);
Corpus TokenizerCorpus();

// First line: a pattern, or the number of one that is written out as a scan;
// the rest: a text. Words are the text, cut; a scan cuts as its pattern does.
bool Pattern(const std::string& bytes);
Corpus PatternCorpus();

// A manifest that is taken can be checked, and is written and read back the
// same (not in the engine-only build).
bool Manifest(const std::string& json);
Corpus ManifestCorpus();

// A manifest of pilots or of an adapter: the same, and what is taken holds what
// routing relies on (not in the engine-only build).
bool Pilots(const std::string& json);
Corpus PilotsCorpus();

// An adapter's adapter_config.json, as peft writes it (not in the engine-only
// build).
bool AdapterConfig(const std::string& json);
Corpus AdapterConfigCorpus();

// A line of a corpus, of queries or of judgements; a document that is taken is
// written and read back the same (not in the engine-only build).
bool BeirLine(const std::string& line);
Corpus BeirLineCorpus();

// The header of a document index, or the record of its structure: likewise.
bool IndexHeader(const std::string& json);
Corpus IndexHeaderCorpus();

}  // namespace motet::fuzz
