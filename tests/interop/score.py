"""score.py SAID.wav HEARD.wav [SKIP_S]: finds what was said in what was heard and scores that stretch at 8 kHz.
Prints JSON: pesq (P.862.1 MOS-LQO, narrowband), similarity (normalised correlation, 0 to 1), at_s."""
import json, subprocess, sys
import numpy
from pesq import pesq

RATE = 8000

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

said, heard = read(sys.argv[1]), read(sys.argv[2])
skip = int(float(sys.argv[3]) * RATE) if len(sys.argv) > 3 else 0
heard = heard[skip:]
if len(heard) < len(said):
    print(json.dumps({"pesq": 0.0, "similarity": 0.0, "at_s": 0.0, "why": "heard %.1f s, said %.1f s" % (len(heard) / RATE, len(said) / RATE)}))
    sys.exit()
c = correlate(heard, said)
at = int(numpy.argmax(c))
stretch = heard[at: at + len(said)]
mos = pesq(RATE, said.astype("int16"), stretch.astype("int16"), "nb") if numpy.abs(stretch).max() > 0 else 0.0
print(json.dumps({"pesq": float(mos), "similarity": float(c[at]), "at_s": (at + skip) / RATE}))
