# Puts functions of our own in the place of two of libopus's (libopus.cmake has libopus's project include this): theirs are compiled under
# another name and remain what is called on processors without AVX2, and wherever LIBOPUS_PLAIN is set (own.c).
#
# Needs cmake 3.19; an older one leaves libopus as it is.

if(CMAKE_VERSION VERSION_LESS 3.19 OR NOT CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64)
  return()
endif()

set(LIBOPUS_OWN "${CMAKE_CURRENT_LIST_DIR}")
function(libopus_take_own)
  set_source_files_properties(silk/decode_core.c PROPERTIES COMPILE_DEFINITIONS silk_decode_core=libopus_decode_core)
  set_source_files_properties(
    silk/NSQ.c PROPERTIES COMPILE_DEFINITIONS silk_noise_shape_quantizer=libopus_noise_shape_quantizer)
  target_sources(
    opus PRIVATE "${LIBOPUS_OWN}/own.c" "${LIBOPUS_OWN}/decode_core.c" "${LIBOPUS_OWN}/noise_shape_quantizer.c")
  target_include_directories(opus PRIVATE "${LIBOPUS_OWN}")
endfunction()
# Once all of libopus's own files have been named.
cmake_language(DEFER CALL libopus_take_own)
