"""wideband.py SAID.wav HEARD.wav: finds what was said in what was heard and judges it at 16 kHz.
Prints JSON: pesq_wb (P.862.2 MOS-LQO), high_db (level between 4.5 and 7 kHz of what was heard, against that of what was said).

What went through 8 kHz anywhere has nothing but its filters' leftovers up there: tens of dB less."""
import json, sys
import numpy
from pesq import pesq
import score

score.RATE = RATE = 16000
BAND = (4500, 7000)

def level_db(pcm):
    power = numpy.abs(numpy.fft.rfft(pcm)) ** 2
    hz = numpy.fft.rfftfreq(len(pcm), 1 / RATE)
    return 10 * numpy.log10(power[(hz >= BAND[0]) & (hz < BAND[1])].sum() / len(pcm) + 1e-9)

def main():
    said, heard = score.read(sys.argv[1]), score.read(sys.argv[2])
    best = {"pesq_wb": 0.0, "high_db": -200.0, "heard_s": len(heard) / RATE}
    if len(heard) >= len(said):
        likeness = score.correlate(heard, said)
        for _ in range(score.PLACES_MAX):
            at = int(numpy.argmax(likeness))
            if likeness[at] < 0.2:
                break
            stretch = heard[at: at + len(said)]
            mos = float(pesq(RATE, said.astype("int16"), stretch.astype("int16"), "wb"))
            if mos > best["pesq_wb"]:
                best.update(pesq_wb=mos, high_db=level_db(stretch) - level_db(said))
            likeness[max(at - len(said) // 2, 0): at + len(said) // 2] = 0
    print(json.dumps(best))

if __name__ == "__main__":
    main()
