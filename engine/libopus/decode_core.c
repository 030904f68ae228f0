/* silk_decode_core. */
#include "config.h"
#include "main.h"
#include "own.h"

void libopus_decode_core(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                         const opus_int16 pulses[MAX_FRAME_LENGTH], int arch);

void silk_decode_core(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                      const opus_int16 pulses[MAX_FRAME_LENGTH], int arch) {
    libopus_decode_core(decoder, control, xq, pulses, arch);
}
