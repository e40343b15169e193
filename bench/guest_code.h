// Guest code for the benchmarks: what compilers make of a kernel's functions, in blocks of five instructions or so.
#pragma once

#include "base/types.h"
#include "guest/address.h"
#include "guest/block_key.h"

#include <array>

namespace ring3::bench {

inline constexpr u32 kernel_mode = mode::code32 | mode::stack32 | mode::cpl0 | mode::protected_mode | mode::cs_flat | mode::ds_es_ss_flat;

inline constexpr std::array<u8, 114> function{
    0x55,                                            // push ebp
    0x89, 0xE5,                                      // mov ebp, esp
    0x57,                                            // push edi
    0x56,                                            // push esi
    0x53,                                            // push ebx
    0x83, 0xEC, 0x10,                                // sub esp, 10h
    0x89, 0xC3,                                      // mov ebx, eax
    0x8B, 0x75, 0x08,                                // mov esi, [ebp+8]
    0x85, 0xDB,                                      // test ebx, ebx
    0x74, 0x4E,                                      // jz +4Eh
    0x8B, 0x43, 0x14,                                // mov eax, [ebx+14h]
    0x8D, 0x54, 0x83, 0x04,                          // lea edx, [ebx+eax*4+4]
    0x39, 0xD6,                                      // cmp esi, edx
    0x73, 0x0B,                                      // jnb +0Bh
    0x8B, 0x0D, 0x40, 0x12, 0x60, 0xC1,              // mov ecx, [C1601240h]
    0x41,                                            // inc ecx
    0x89, 0x4B, 0x20,                                // mov [ebx+20h], ecx
    0xEB, 0x0A,                                      // jmp +0Ah
    0x0F, 0xB6, 0x42, 0x03,                          // movzx eax, byte [edx+3]
    0x24, 0x7F,                                      // and al, 7Fh
    0x3C, 0x20,                                      // cmp al, 20h
    0x77, 0x12,                                      // ja +12h
    0xC7, 0x44, 0x24, 0x04, 0x00, 0x10, 0x00, 0x00,  // mov dword [esp+4], 1000h
    0x89, 0x04, 0x24,                                // mov [esp], eax
    0xE8, 0x20, 0x01, 0x00, 0x00,                    // call +120h
    0x85, 0xC0,                                      // test eax, eax
    0x75, 0x1A,                                      // jnz +1Ah
    0xBA, 0x01, 0x00, 0x00, 0x00,                    // mov edx, 1
    0xF0, 0x0F, 0xC1, 0x53, 0x08,                    // lock xadd [ebx+8], edx
    0xC1, 0xEA, 0x0C,                                // shr edx, 12
    0x0F, 0xAF, 0xD0,                                // imul edx, eax
    0x01, 0x57, 0x1C,                                // add [edi+1Ch], edx
    0xF6, 0x46, 0x09, 0x40,                          // test byte [esi+9], 40h
    0x0F, 0x44, 0xC2,                                // cmovz eax, edx
    0x64, 0xA1, 0x80, 0x56, 0x73, 0xC1,              // mov eax, fs:[C1735680h]
    0x31, 0xC0,                                      // xor eax, eax
    0x83, 0xC4, 0x10,                                // add esp, 10h
    0x5B,                                            // pop ebx
    0x5E,                                            // pop esi
    0x5F,                                            // pop edi
    0x5D,                                            // pop ebp
    0xC3,                                            // ret
    0x90,                                            // nop
};

// Fills a page with the function, again and again.
inline void fill_page(u8* page) {
  for (u32 i = 0; i < page_size; ++i) page[i] = function[i % function.size()];
}

}  // namespace ring3::bench
