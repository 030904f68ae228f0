# Puts functions of our own in the place of some of libopus's (libopus.cmake has libopus's project include this): theirs are compiled under
# another name and remain what is called on processors without AVX2, and wherever LIBOPUS_PLAIN is set (own.c).
#
# Needs cmake 3.19; an older one leaves libopus as it is.

if(CMAKE_VERSION VERSION_LESS 3.19 OR NOT CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64)
  return()
endif()

set(LIBOPUS_OWN "${CMAKE_CURRENT_LIST_DIR}")
function(libopus_take file theirs renamed own)
  set_source_files_properties("${file}" PROPERTIES COMPILE_DEFINITIONS "${theirs}=${renamed}")
  target_sources(opus PRIVATE "${LIBOPUS_OWN}/${own}")
endfunction()
function(libopus_take_own)
  target_include_directories(opus PRIVATE "${LIBOPUS_OWN}")
  target_sources(opus PRIVATE "${LIBOPUS_OWN}/own.c")
  libopus_take(celt/entenc.c ec_enc_icdf libopus_ec_enc_icdf range_encoder.c)
  libopus_take(celt/x86/x86cpu.c opus_select_arch libopus_select_arch select_arch.c)
  libopus_take(silk/A2NLSF.c silk_A2NLSF libopus_A2NLSF a2nlsf.c)
  libopus_take(silk/NLSF_del_dec_quant.c silk_NLSF_del_dec_quant libopus_NLSF_del_dec_quant nlsf_del_dec_quant.c)
  libopus_take(silk/NSQ.c silk_noise_shape_quantizer libopus_noise_shape_quantizer noise_shape_quantizer.c)
  # Its own file is named above.
  set_source_files_properties(silk/code_signs.c PROPERTIES COMPILE_DEFINITIONS silk_encode_signs=libopus_encode_signs)
  libopus_take(silk/decode_core.c silk_decode_core libopus_decode_core decode_core.c)
  libopus_take(silk/decode_pulses.c silk_decode_pulses libopus_decode_pulses decode_pulses.c)
  libopus_take(silk/float/warped_autocorrelation_FLP.c silk_warped_autocorrelation_FLP libopus_warped_autocorrelation_FLP
               warped_autocorrelation.c)
  libopus_take(silk/x86/VQ_WMat_EC_sse4_1.c silk_VQ_WMat_EC_sse4_1 libopus_VQ_WMat_EC vq_wmat_ec.c)
endfunction()
# Once all of libopus's own files have been named.
cmake_language(DEFER CALL libopus_take_own)
