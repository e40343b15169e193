# Tiny Multiboot kernels for tests and benchmarks, on the library in tests/guests/lib.
set(guest_lib_folder ${CMAKE_SOURCE_DIR}/tests/guests/lib)
set(guest_lib_out ${CMAKE_BINARY_DIR}/tests/guests/lib)
# i486: the tests also run on CPU models that lack later instructions. Who calls guest_kernel may set another one.
set(guest_march i486)
set(guest_flags -m32 -O2 -g -std=gnu11 -ffreestanding -fno-builtin -nostdlib -static -fno-pic -no-pie -fno-stack-protector
  -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -fno-delete-null-pointer-checks -fno-reorder-functions -fno-toplevel-reorder
  -mgeneral-regs-only -mpreferred-stack-boundary=2 -Wall -Wextra -Werror -Wno-unused-variable -Wno-unused-parameter -Wno-array-bounds
  -Wno-stringop-overflow)

file(GLOB lib_sources CONFIGURE_DEPENDS ${guest_lib_folder}/*.c ${guest_lib_folder}/*.S)
file(GLOB guest_lib_headers CONFIGURE_DEPENDS ${guest_lib_folder}/*.h)
foreach(source IN LISTS lib_sources)
  get_filename_component(name ${source} NAME)
  add_custom_command(OUTPUT ${guest_lib_out}/${name}.o
    COMMAND ${CMAKE_COMMAND} -E make_directory ${guest_lib_out}
    COMMAND ${CMAKE_C_COMPILER} ${guest_flags} -march=${guest_march} -I${guest_lib_folder} -c ${source} -o ${guest_lib_out}/${name}.o
    DEPENDS ${source} ${guest_lib_headers} VERBATIM)
  list(APPEND guest_lib_objects ${guest_lib_out}/${name}.o)
endforeach()
# One target builds the objects, so that kernels built in parallel do not race for them.
add_custom_target(guest_lib DEPENDS ${guest_lib_objects})

# guest_kernel(ELF SOURCE...): how to make the kernel ELF. Depend on it to have it built.
function(guest_kernel elf)
  get_filename_component(folder ${elf} DIRECTORY)
  add_custom_command(OUTPUT ${elf}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${folder}
    COMMAND ${CMAKE_C_COMPILER} ${guest_flags} -march=${guest_march} -I${guest_lib_folder} -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments
      -T ${guest_lib_folder}/link.ld ${ARGN} ${guest_lib_objects} -lgcc -o ${elf}
    DEPENDS guest_lib ${guest_lib_objects} ${ARGN} ${guest_lib_headers} ${guest_lib_folder}/link.ld VERBATIM)
endfunction()
