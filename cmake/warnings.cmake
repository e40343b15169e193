# Warnings are errors; sanitizers on request.
function(ring3_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror)
  if(RING3_FUZZ)  # also tells libFuzzer which branches an input takes
    target_compile_options(${target} PUBLIC -fsanitize=fuzzer-no-link)
  endif()
  if(RING3_SANITIZE OR RING3_FUZZ)
    target_compile_options(${target} PUBLIC -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()
