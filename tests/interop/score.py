"""score.py SAID.wav HEARD.wav [SKIP_S]: finds what was said in what was heard and scores it at 8 kHz.
score.py --pairs: the same for each line of standard input, SAID.wav, HEARD.wav and perhaps SKIP_S between tabs.
Prints JSON, a line for each pair: pesq (P.862.1 MOS-LQO, narrowband), similarity (0 to 1), at_s; error where a pair of many has none.

The speaker repeats itself, so it stands in the recording several times; the best of them counts: on a busy machine a browser's own
jitter buffer stretches some. Similarity is the correlation of stretches of 200 ms, each shifted by at most 25 ms, weighted by energy:
it knows the content and does not mind the stretching."""
import functools, json, subprocess, sys
import numpy
from pesq import pesq

RATE = 8000
WINDOW, SHIFT = RATE // 5, RATE // 40
PLACES_MAX = 6

@functools.lru_cache(maxsize=2)
def read(path):
    raw = subprocess.run(["sox", path, "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", str(RATE), "-"],
                         check=True, capture_output=True).stdout
    return numpy.frombuffer(raw, dtype="<i2").astype(float)

def correlate(heard, said):
    """Correlation of `said` with every stretch of `heard`, normalised by the energy of both."""
    n = 1 << (len(heard) + len(said)).bit_length()
    product = numpy.fft.irfft(numpy.fft.rfft(heard, n) * numpy.conj(numpy.fft.rfft(said, n)), n)[: len(heard) - len(said) + 1]
    energy = numpy.concatenate(([0], numpy.cumsum(heard ** 2)))
    window = energy[len(said):] - energy[: len(energy) - len(said)]
    return product / (numpy.sqrt(numpy.maximum(window, 1) * max((said ** 2).sum(), 1)))

def similarity(said, heard, at):
    total = weight = 0.0
    for start in range(0, len(said) - WINDOW + 1, WINDOW):
        piece = said[start: start + WINDOW]
        energy = (piece ** 2).sum()
        low = max(at + start - SHIFT, 0)
        around = heard[low: at + start + WINDOW + SHIFT]
        if energy > 0 and len(around) >= WINDOW:
            total += energy * max(correlate(around, piece).max(), 0.0)
            weight += energy
    return total / weight if weight else 0.0

def score(said, heard, skip_s=0.0):
    said, heard = read(said), read(heard)
    skip = int(float(skip_s) * RATE)
    heard = heard[skip:]
    best = {"pesq": 0.0, "similarity": 0.0, "at_s": 0.0, "said_s": len(said) / RATE, "heard_s": len(heard) / RATE}
    if len(heard) >= len(said):
        c = correlate(heard, said)
        for _ in range(PLACES_MAX):
            at = int(numpy.argmax(c))
            if c[at] < 0.2:
                break
            stretch = heard[at: at + len(said)]
            mos = float(pesq(RATE, said.astype("int16"), stretch.astype("int16"), "nb")) if numpy.abs(stretch).max() > 0 else 0.0
            if mos > best["pesq"]:
                best.update(pesq=mos, similarity=similarity(said, heard, at), at_s=(at + skip) / RATE)
            c[max(at - len(said) // 2, 0): at + len(said) // 2] = 0
    return best

def main():
    if sys.argv[1:] != ["--pairs"]:
        print(json.dumps(score(*sys.argv[1:4])))
        return
    for line in sys.stdin:
        try:
            verdict = score(*line.rstrip("\n").split("\t"))
        except Exception as error:  # one recording that cannot be judged must not cost the others their verdict
            verdict = {"error": repr(error)}
        print(json.dumps(verdict), flush=True)

if __name__ == "__main__":
    main()
