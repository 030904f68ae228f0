"""compare.py FIRST.wav SECOND.wav SAID.wav...: scores two recordings of the same time against the sentences that were said.
Prints JSON: first and second (median P.862.1 MOS-LQO of all sentences, narrowband), difference (the median of what the first scores above the
second, sentence by sentence: some sentences score a tenth more than others whoever carries them), similarity (the lowest median of a
sentence), sentences (how often one stands in both).

The speaker repeats itself, so each sentence stands in both recordings several times, at the same times. Only those that are whole in
both count: what stretches one sentence on a busy machine (a browser's own jitter buffer) then weighs as much on either side, and the
median forgets it."""
import json, statistics, sys
import numpy
from pesq import pesq
from score import PLACES_MAX, RATE, correlate, read, similarity

# How far apart the same words may stand in the two: their delays differ by jitter buffers.
APART = RATE // 2

def places(said, heard):
    c = correlate(heard, said)
    found = []
    while len(found) < PLACES_MAX:
        at = int(numpy.argmax(c))
        if c[at] < 0.2:
            break
        found.append(at)
        c[max(at - len(said) // 2, 0): at + len(said) // 2] = 0
    return sorted(found)

def score(said, heard, at):
    stretch = heard[at: at + len(said)]
    return float(pesq(RATE, said.astype("int16"), stretch.astype("int16"), "nb"))

recordings = [read(path) for path in sys.argv[1:3]]
scores, alike = ([], []), []
for path in sys.argv[3:]:
    said = read(path)
    first, second = (places(said, heard) for heard in recordings)
    pairs = [(a, b) for a in first for b in second if abs(a - b) < APART]
    for pair in pairs:
        for kept, heard, at in zip(scores, recordings, pair):
            kept.append(score(said, heard, at))
    for side, heard in enumerate(recordings):
        alike.append(statistics.median([similarity(said, heard, pair[side]) for pair in pairs] or [0.0]))
medians = [statistics.median(kept or [0.0]) for kept in scores]
difference = statistics.median([first - second for first, second in zip(*scores)] or [-4.0])
print(json.dumps({"first": medians[0], "second": medians[1], "difference": difference, "similarity": min(alike or [0.0]),
                  "sentences": len(scores[0]), "all": [[round(value, 2) for value in kept] for kept in scores]}))
