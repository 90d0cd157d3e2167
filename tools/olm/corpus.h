#pragma once
// The text that a command is given.
#include <string>

#include <olm/nn/data.h>

namespace olm::tools {

/// The corpus at `path`; prints a line for each reason for which something was left out of it.
nn::Corpus open_corpus(const std::string& path);
/// Throws where `out`, the folder of a new run, holds files of the corpus: as the folder of a run
/// it would be left out, and the corpus another one.
void require_outside(const nn::Corpus& corpus, const std::string& out);

}  // namespace olm::tools
