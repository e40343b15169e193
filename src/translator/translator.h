// GuestBlock to host code.
#pragma once

#include <memory>

#include "translator/emitter.h"

namespace ring3 {

class Translator {
 public:
  Translator(const TranslatorOptions& options, const Stubs& stubs, u64 base);
  ~Translator();
  Translator(const Translator&) = delete;
  Translator& operator=(const Translator&) = delete;

  // Translates `block` for installation at offset `at` from the code cache's base (a host address). `counter`, if not null, is an 8-byte
  // host word that each execution increments.
  void translate(const GuestBlock& block, const SiteForms& forms, u32 at, u64* counter, TranslatedBlock& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ring3
