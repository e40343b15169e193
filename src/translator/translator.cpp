#include "translator/translator.h"

#include "base/error.h"

namespace ring3 {

using namespace asmjit;

namespace {

// More than any block: 64 instructions take 16 KiB.
constexpr std::size_t buffer_size = 256 * 1024;
constexpr std::size_t longest_piece = 64;  // of what is emitted at once

}  // namespace

struct Translator::Impl {
  Impl(const TranslatorOptions& o, const Stubs& s, u64 b) : options(o), stubs(s), base(b) {}
  TranslatorOptions options;
  Stubs stubs;
  u64 base;
  CodeHolder holder;
  std::unique_ptr<u8[]> buffer = std::make_unique_for_overwrite<u8[]>(buffer_size);
};

Translator::Translator(const TranslatorOptions& options, const Stubs& stubs, u64 base)
    : impl_(std::make_unique<Impl>(options, stubs, base)) {}
Translator::~Translator() = default;

void Translator::translate(const GuestBlock& block, const SiteForms& forms, u32 at, u64* counter, TranslatedBlock& out) {
  out.clear();
  CodeHolder& holder = impl_->holder;
  holder.reset(ResetPolicy::kSoft);
  holder.init(Environment::host(), impl_->base + at);
  // AsmJit would allocate and free one for each block. It must not have to grow: it loses the contents of a buffer that is not its own.
  CodeBuffer& buffer = holder.textSection()->buffer();
  buffer._data = impl_->buffer.get();
  buffer._capacity = buffer_size;
  buffer._flags = CodeBufferFlags::kIsExternal | CodeBufferFlags::kIsFixed;
  Emitter emitter(holder, impl_->options, forms, impl_->stubs, impl_->base, at);
  emitter.emit(block, counter, out);
  if (holder.flatten() != kErrorOk || holder.resolveUnresolvedLinks() != kErrorOk || holder.relocateToBase(impl_->base + at) != kErrorOk) {
    throw InternalError("cannot assemble a block");
  }
  if (holder.codeSize() + longest_piece > buffer_size) throw InternalError("a block is longer than the buffer for it");
  if (holder.sectionCount() != 1) throw InternalError("a block refers to what is out of reach");
  out.code.assign(buffer.data(), buffer.data() + holder.codeSize());
}

}  // namespace ring3
