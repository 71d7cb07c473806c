/* Unpacks the heatshrink stream of a patch with the C decoder of the heatshrink project, as a device does: byte by byte.
 *
 * heatshrink_test WINDOW_BITS LOOKAHEAD_BITS <stream >unpacked
 */
#include <stdio.h>
#include <stdlib.h>

#include "heatshrink_decoder.h"

int main(int argc, char **argv)
{
    if (argc != 3) {
        return 2;
    }
    heatshrink_decoder *decoder = heatshrink_decoder_alloc(16, (uint8_t)atoi(argv[1]), (uint8_t)atoi(argv[2]));
    if (decoder == NULL) {
        return 2;
    }
    for (int next = getchar(); next != EOF; next = getchar()) {
        uint8_t byte = (uint8_t)next;
        size_t count = 0;
        if (heatshrink_decoder_sink(decoder, &byte, 1, &count) != HSDR_SINK_OK || count != 1) {
            return 1;
        }
        uint8_t out[64];
        HSD_poll_res more;
        do {
            more = heatshrink_decoder_poll(decoder, out, sizeof out, &count);
            if (more < 0) {
                return 1;
            }
            fwrite(out, 1, count, stdout);
        } while (more == HSDR_POLL_MORE);
    }
    HSD_finish_res finished = heatshrink_decoder_finish(decoder);
    heatshrink_decoder_free(decoder);
    return finished == HSDR_FINISH_DONE ? 0 : 1;
}
