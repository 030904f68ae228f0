/* silk_noise_shape_quantizer. */
#include "config.h"
#include "main.h"
#include "own.h"

void libopus_noise_shape_quantizer(silk_nsq_state *nsq, opus_int signal_type, const opus_int32 x_sc_Q10[],
                                   opus_int8 pulses[], opus_int16 xq[], opus_int32 sLTP_Q15[], const opus_int16 a_Q12[],
                                   const opus_int16 b_Q14[], const opus_int16 AR_shp_Q13[], opus_int lag,
                                   opus_int32 HarmShapeFIRPacked_Q14, opus_int Tilt_Q14, opus_int32 LF_shp_Q14,
                                   opus_int32 Gain_Q16, opus_int Lambda_Q10, opus_int offset_Q10, opus_int length,
                                   opus_int shapingLPCOrder, opus_int predictLPCOrder, int arch);

void silk_noise_shape_quantizer(silk_nsq_state *nsq, opus_int signal_type, const opus_int32 x_sc_Q10[],
                                opus_int8 pulses[], opus_int16 xq[], opus_int32 sLTP_Q15[], const opus_int16 a_Q12[],
                                const opus_int16 b_Q14[], const opus_int16 AR_shp_Q13[], opus_int lag,
                                opus_int32 HarmShapeFIRPacked_Q14, opus_int Tilt_Q14, opus_int32 LF_shp_Q14,
                                opus_int32 Gain_Q16, opus_int Lambda_Q10, opus_int offset_Q10, opus_int length,
                                opus_int shapingLPCOrder, opus_int predictLPCOrder, int arch) {
    libopus_noise_shape_quantizer(nsq, signal_type, x_sc_Q10, pulses, xq, sLTP_Q15, a_Q12, b_Q14, AR_shp_Q13, lag,
                                  HarmShapeFIRPacked_Q14, Tilt_Q14, LF_shp_Q14, Gain_Q16, Lambda_Q10, offset_Q10,
                                  length, shapingLPCOrder, predictLPCOrder, arch);
}
