# How libopus is compiled: by clang where there is one, the newest first, otherwise by the system's compiler. What clang has seen of it
# at work (benches/training/train.sh) is used where it lies. Cargo has cmake read this before libopus's own files (.cargo/config.toml), on
# x86-64 alone; CC=... overrules it. `cmake -P` on it names the compiler.
#
# Why: libopus is three quarters of a transcoded call. What this saves stands in docs/decisions.md, "libopus: compilers and training".

if(NOT DEFINED ENV{CC})
  find_program(LIBOPUS_CLANG NAMES clang-22 clang-21 clang-20 clang-19 clang-18 clang-17 clang-16 clang-15 clang-14 clang)
endif()
if(LIBOPUS_CLANG AND CMAKE_SCRIPT_MODE_FILE)
  message("${LIBOPUS_CLANG}")
elseif(LIBOPUS_CLANG)
  set(CMAKE_C_COMPILER "${LIBOPUS_CLANG}")
  execute_process(COMMAND "${LIBOPUS_CLANG}" -dumpversion OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE)
  get_filename_component(profile "${CMAKE_CURRENT_LIST_DIR}/../target/libopus-${version}.profdata" ABSOLUTE)
  if(DEFINED ENV{LIBOPUS_TRAINING})
    set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG -fprofile-instr-generate" CACHE STRING "with counters")
  elseif(EXISTS "${profile}")
    set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG \"-fprofile-instr-use=${profile}\"" CACHE STRING "with what was counted")
  endif()
endif()
set(CMAKE_PROJECT_Opus_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/libopus/own.cmake")
