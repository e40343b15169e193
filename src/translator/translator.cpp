#include "translator/translator.h"

#include "base/error.h"

namespace ring3 {

using namespace asmjit;

struct Translator::Impl {
  Impl(const TranslatorOptions& o, const Stubs& s, u64 b) : options(o), stubs(s), base(b) {}
  TranslatorOptions options;
  Stubs stubs;
  u64 base;
  CodeHolder holder;
};

Translator::Translator(const TranslatorOptions& options, const Stubs& stubs, u64 base)
    : impl_(std::make_unique<Impl>(options, stubs, base)) {}
Translator::~Translator() = default;

void Translator::translate(const GuestBlock& block, const UnalignedSites& unaligned, u32 at, u64* counter, TranslatedBlock& out) {
  out.clear();
  CodeHolder& holder = impl_->holder;
  holder.reset(ResetPolicy::kSoft);
  holder.init(Environment::host(), impl_->base + at);
  Emitter emitter(holder, impl_->options, unaligned, impl_->stubs, impl_->base, at);
  emitter.emit(block, counter, out);
  if (holder.flatten() != kErrorOk || holder.resolveUnresolvedLinks() != kErrorOk || holder.relocateToBase(impl_->base + at) != kErrorOk) {
    throw InternalError("cannot assemble a block");
  }
  out.code.resize(holder.codeSize());
  holder.copyFlattenedData(out.code.data(), out.code.size());
}

}  // namespace ring3
