// Asks the translator itself which forms of an instruction it emits, by translating each of them alone.
#pragma once

#include "codecache/code_cache.h"
#include "codecache/code_region.h"
#include "frontend/decoder.h"
#include "hostcpu/forms.h"
#include "translator/translator.h"

#include <string>
#include <vector>

namespace ring3::isa {

class Declined {
 public:
  Declined();

  // Every encoding of the row with one addressing form each: bytes up to 15.
  [[nodiscard]] std::vector<std::vector<u8>> encodings(Row row) const;
  // The features that the row's forms need, in the order of `Feature`.
  [[nodiscard]] std::vector<Feature> features(Row row) const;
  // What is interpreted of a row that is otherwise emitted, as words for people; empty if nothing is.
  [[nodiscard]] std::string describe(Row row);

 private:
  struct Variation;
  [[nodiscard]] bool emits(const std::vector<u8>& bytes, const Variation& variation);

  Decoder decoder_;
  hostcpu::Forms forms_{decoder_};
  CodeRegion region_;
  CodeCache cache_;
  Translator translator_;
};

}  // namespace ring3::isa
