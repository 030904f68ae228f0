"""score.py HEARD_FOLDER RESULT_FOLDER quick|full|deep: scores what `quality` wrote. Prints a table with verdicts, writes JSON, table and charts.

Each sentence is scored for itself, PESQ-NB (P.862.1) and, but in a quick run, PESQ-WB (P.862.2) and STOI; a point's score is their mean, with the
half width of its 95 % interval. Differences from the oracle are taken sentence by sentence, so that the voices do not count.

Scores are kept beside HEARD_FOLDER by what was heard: the references are the same at every run, and most of the gateway's sound is too."""
import hashlib, json, multiprocessing, pathlib, sys, warnings
import numpy
from pesq import pesq
from scipy.signal import correlate, resample_poly
from pystoi import stoi

warnings.simplefilter("ignore")
heard_folder, result_folder, mode = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
manifest = json.loads((heard_folder / "manifest.json").read_text())
LEAD_MS, TAIL_MS = 150, 250
SCORING = 1
SHIFT_MS = 100

def samples(name):
    return numpy.fromfile(heard_folder / name, dtype="<i2")

said_wide = samples("said-16k.raw")
said = numpy.clip(resample_poly(said_wide.astype(float), 1, 2), -32768, 32767).astype("<i2")

def cut(pcm, from_ms, to_ms, rate_khz):
    begin, end = round(from_ms * rate_khz), round(to_ms * rate_khz)
    piece = pcm[max(begin, 0):max(min(end, len(pcm)), 0)]
    return numpy.concatenate([numpy.zeros(max(-begin, 0), pcm.dtype), piece, numpy.zeros(max(end - max(len(pcm), 0), 0), pcm.dtype)])

def score_of(task):
    scores = kept(task, [], pesq_of)
    return scores if mode == "quick" else scores | kept(task, ["stoi", SHIFT_MS], stoi_of)

def kept(task, kind, score):
    """The same sound beside the same speech has the same score: whoever changes how it is scored changes `SCORING`."""
    point, variant = task
    facts = [SCORING, mode == "quick", manifest["sentences"], point["network"]["drift_ppm"]] + kind
    if variant == "gateway":
        facts += [variant, point["gateway_begins_ms"], point["added_delay_ms"]["heard_mean"]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name in ("said-16k.raw", f"{point['name']}.{variant}.raw"):
        digest.update((heard_folder / name).read_bytes())
    place = heard_folder.parent / "scores" / digest.hexdigest()
    if place.exists():
        return json.loads(place.read_text())
    result = score(task)
    unfinished = place.with_suffix(f".{multiprocessing.current_process().pid}")
    unfinished.write_text(json.dumps(result))
    unfinished.rename(place)
    return result

def sentences_of(task):
    """For each sentence its place in what was said, all of what was heard, and its place there, in ms."""
    point, variant = task
    pcm = samples(f"{point['name']}.{variant}.raw")
    shift = 0.0
    if variant == "gateway":
        shift = -point["gateway_begins_ms"] + (point["added_delay_ms"]["heard_mean"] or 0.0)
    drift = 1 - point["network"]["drift_ppm"] / 1e6 if variant == "gateway" else 1
    for begin, end in manifest["sentences"]:
        yield (begin - LEAD_MS, end + TAIL_MS), pcm, (begin * drift - LEAD_MS + shift, end * drift + TAIL_MS + shift)

def pesq_of(task):
    result = {"nb": [], "wb": []}
    for place, pcm, heard in sentences_of(task):
        reference, degraded = cut(said, *place, 8), cut(pcm, *heard, 8)
        try:
            result["nb"].append(float(pesq(8000, reference, degraded, "nb")))
        except Exception:
            result["nb"].append(1.0)  # nothing of it was heard
        if mode != "quick":
            # A drifting sender's sentence is longer or shorter than it was said by up to a dozen samples.
            degraded = degraded[:min(len(reference), len(degraded))]
            wide, wide_degraded = cut(said_wide, *place, 16), resample_poly(degraded.astype(float), 2, 1)
            try:
                result["wb"].append(float(pesq(16000, wide, numpy.clip(wide_degraded, -32768, 32767).astype("<i2"), "wb")))
            except Exception:
                result["wb"].append(1.0)
    return result

def stoi_of(task):
    """STOI compares instant by instant and aligns nothing, so each sentence is looked for around its place; PESQ does that itself."""
    scores = []
    for place, pcm, (begin, end) in sentences_of(task):
        reference = cut(said, *place, 8).astype(float)
        around = cut(pcm, begin - SHIFT_MS, end + SHIFT_MS, 8).astype(float)
        likeness = correlate(around, reference, "valid", "fft") if len(around) >= len(reference) else numpy.zeros(1)
        at = int(numpy.argmax(likeness))
        length = min(len(reference), len(around) - at)
        scores.append(float(stoi(reference[:length], around[at:at + length], 8000)))
    return {"stoi": scores}

def mean_of(values):
    values = numpy.array(values)
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return round(float(values.mean()), 3), round(float(half), 3)

# (point, what is judged, target): quality is the distance from the oracle, delay that of the gateway.
TARGETS = [
    ("out-l0-j0", "from_oracle", ">=", -0.05), ("out-l0-j0", "mean", "<=", 25.0),
    ("out-l5-j0", "from_oracle", ">=", -0.05), ("out-l5-j0", "mean", "<=", 45.0),
    ("out-l5-j50", "from_oracle", ">=", -0.10), ("out-l5-j50", "p95", "<=", 95.0),
    ("out-l0-j100", "from_oracle", ">=", -0.15), ("out-l0-j100", "p95", "<=", 130.0),
    ("out-b10-j0", "from_oracle", ">=", 0.0), ("out-b10-j0", "p95", "<=", 110.0),
    ("in-l0-j0", "from_oracle", ">=", -0.05), ("in-l0-j0", "mean", "<=", 2.0),
    ("in-l5-j0", "from_oracle", ">=", -0.05),
]
# FreeSWITCH's jitter buffer 60:200 on networks like these: distance from its oracle, delay (where measured).
FREESWITCH = {"out-l0-j0": (0.0, 42), "out-l3-j0": (-0.04, None), "out-l5-j0": (-0.01, 79), "out-l10-j0": (-0.01, None), "out-l20-j0": (-0.10, None),
              "out-b10-j0": (-0.06, 280), "out-l0-j50": (-0.11, None), "out-l0-j100": (-0.27, None), "out-l5-j50": (-0.16, 113)}

# What the other gateways score, as stated where the targets are: another sender (libopus 1.3.1, wideband, FEC at 10 % expected loss, 60 s of
# other speech), so only distances from the oracle of the same row compare. Not measured here.
RIVAL_POINTS = ["out-l0-j0", "out-l3-j0", "out-l5-j0", "out-l10-j0", "out-l20-j0", "out-b10-j0", "out-l0-j50", "out-l0-j100", "out-l5-j50"]
RIVALS = {"their oracle": [3.17, 3.10, 3.03, 2.88, 2.52, 2.30, 3.17, 3.17, 3.03],
          "naive": [3.17, 2.85, 2.69, 2.38, 1.90, 2.05, 3.17, 1.46, 2.69],
          "rtpengine, newest": [3.17, 2.60, 2.33, 1.94, 1.63, 1.95, 2.48, 1.38, 1.94],
          "FreeSWITCH, default": [3.17, 2.60, 2.62, 2.32, 1.88, 1.95, 1.72, 1.30, 1.59],
          "FreeSWITCH, jitter buffer 60:200": [3.17, 3.06, 3.02, 2.87, 2.42, 2.24, 3.06, 2.90, 2.87]}
ENCODER = "PCMU; the gateway's encoder: libopus 1.6.1, 8 kHz mono, VoIP, at most 20 kbit/s, complexity 5"
SENDERS = {"OpusToPcmu": manifest["sender"], "PcmuToOpus": ENCODER + ", no FEC", "PcmuToLossyOpus": ENCODER + ", FEC by receiver reports"}

def rivals_of(rows):
    lines = ["PESQ-NB of others at the same networks, stated and not measured here, with another sender (libopus 1.3.1, wideband, 20 kbit/s, FEC at 10 % "
             "expected loss; 60 s of speech): in parentheses the distance from the oracle of that sender. FreeSWITCH's buffer delays by 42 (clean), 79 (5 %), 113 (5 % and "
             "50 ms) and 280 to 330 ms (bursts), rtpengine by 0.", "", "| | " + " | ".join(RIVAL_POINTS) + " |", "|---" * (len(RIVAL_POINTS) + 1) + "|"]
    for name, scores in RIVALS.items():
        lines.append(f"| {name} | " + " | ".join(f"{score:.2f} ({score - best:+.2f})" for score, best in zip(scores, RIVALS["their oracle"])) + " |")
    own = [rows.get(name) for name in RIVAL_POINTS]
    lines.append("| this gateway, its sender | " + " | ".join(f"{row['gateway']['nb']:.2f} ({row['from_oracle']:+.2f})" if row else "" for row in own) + " |")
    return "\n".join(lines) + "\n"

def verdicts(rows):
    lines = []
    for name, what, relation, limit in TARGETS:
        row = rows.get(name)
        if row is None:
            continue
        value = row["from_oracle"] if what == "from_oracle" else row["delay_ms"][what]
        # A mean is below a bound when its interval reaches it: sentences are few.
        slack = row["from_oracle_ci"] if what == "from_oracle" and mode == "quick" else 0.0
        met = value + slack >= limit if relation == ">=" else value <= limit
        lines.append({"point": name, "what": what, "value": value, "target": f"{relation} {limit}", "met": bool(met)})
    for name, row in rows.items():
        value = round(row["gateway"]["nb"] - row["naive"]["nb"], 3)
        if value < -0.02:
            lines.append({"point": name, "what": "against naive", "value": value, "target": ">= 0", "met": False})
    if mode == "deep":
        return lines
    above = sum(row["gateway"]["nb"] - row["naive"]["nb"] >= -0.02 for row in rows.values())
    lines.append({"point": "all", "what": "points not below naive by more than 0.02", "value": f"{above} of {len(rows)}", "target": "all", "met": above == len(rows)})
    for name, row in rows.items():
        if row["direction"] == "PcmuToLossyOpus" and row["network"]["loss_pct"] >= 5:
            gain = round(row["gateway"]["nb"] - row["naive"]["nb"], 3)
            lines.append({"point": name, "what": "FEC by reports against none", "value": gain, "target": "> 0", "met": gain > 0})
    for name, (quality, delay) in FREESWITCH.items():
        if name not in rows:
            continue
        row = rows[name]
        if delay is None:
            # Its buffer's least delay is that of a clean path.
            least = FREESWITCH["out-l0-j0"][1]
            met = row["from_oracle"] >= quality or (row["from_oracle"] >= quality - 0.03 and row["delay_ms"]["mean"] < least)
            lines.append({"point": name, "what": f"against FreeSWITCH ({quality:+.2f}, delay not stated, at least {least} ms)",
                          "value": f"{row['from_oracle']:+.3f} at {row['delay_ms']['mean']} ms", "target": "better, or within 0.03 at less", "met": met})
        else:
            better = row["from_oracle"] >= quality and row["delay_ms"]["mean"] <= delay
            close = row["from_oracle"] >= quality - 0.03 and row["delay_ms"]["mean"] < delay
            lines.append({"point": name, "what": f"against FreeSWITCH ({quality:+.2f} at {delay} ms)",
                          "value": f"{row['from_oracle']:+.3f} at {row['delay_ms']['mean']} ms", "target": "better, or within 0.03 at less", "met": better or close})
    return lines

def table_of(rows):
    lines = [f"`out-`: Opus to PCMU; sender: {SENDERS['OpusToPcmu']}.", f"`in-`: PCMU to Opus, the network before the gateway; sender: {SENDERS['PcmuToOpus']}.",
             f"`back-`: PCMU to Opus, the network behind it; sender: {SENDERS['PcmuToLossyOpus']} every 5 s (naive: no FEC; oracle: FEC from the first packet).",
             f"l: loss, %; b: the same in bursts of 3; j: jitter, ms. {len(manifest['sentences'])} sentences, six voices (espeak-ng); PESQ-NB, mean with its 95 % interval; delay is added delay in ms. "
             "PESQ-WB and STOI: gateway / oracle / naive.", "",
             "| point | gateway | oracle | naive | from oracle | PESQ-WB | STOI | delay mean | p95 | max | concealed | recovered | stretched, ms | late at endpoint | sent with FEC |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        delay, playout = row["delay_ms"], row["playout"]
        stretched = f"-{playout['shortened_ms']} +{playout['lengthened_ms']}" if playout else ""
        lines.append(f"| {name} | {row['gateway']['nb']:.2f} ± {row['gateway']['nb_ci']:.2f} | {row['oracle']['nb']:.2f} | {row['naive']['nb']:.2f} | "
                     f"{row['from_oracle']:+.3f} ± {row['from_oracle_ci']:.3f} | {of_three(row, 'wb', 2)} | {of_three(row, 'stoi', 3)} | {delay['mean']} | {delay['p95']} | {delay['max']} | {row['concealed_pct']} % | {playout.get('recovered', '')} | {stretched} | {row['late_at_endpoint']} | {row['redundant'] or ''} |")
    return "\n".join(lines) + "\n"

def of_three(row, what, digits):
    return " / ".join(f"{row[v][what]:.{digits}f}" for v in ("gateway", "oracle", "naive") if what in row[v])

def networks_of(rows):
    """What libopus's networks gain on the same packets: each point without them beside the one with them."""
    lines = ["Opus to PCMU through the gateway, the same packets concealed by libopus 1.6.1 plainly and with its networks (feature `deep-plc`). l: loss, %; b: the same in bursts of 3; "
             f"{len(manifest['sentences'])} sentences, six voices (espeak-ng). The gain is that of PESQ-NB, sentence by sentence, with its 95 % interval. Senders, {manifest['sender'].split('VoIP')[0]}VoIP, complexity 9: ",
             "`plain20`: 20 kbit/s, no FEC; `fec32`: 32 kbit/s, in-band FEC at 10 % expected loss; `dred32`: 32 kbit/s, 200 ms of DRED at 10 % expected loss, no FEC.", "",
             "| point | PESQ-NB plain | networks | gain | PESQ-WB plain | networks | STOI plain | networks | delay mean, ms |", "|---|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        with_them = rows.get(name + "-networks")
        if with_them is None:
            continue
        plain, deep = row["gateway"], with_them["gateway"]
        gain, ci = mean_of(numpy.subtract(deep["nb_each"], plain["nb_each"]))
        lines.append(f"| {name} | {plain['nb']:.2f} ± {plain['nb_ci']:.2f} | {deep['nb']:.2f} ± {deep['nb_ci']:.2f} | {gain:+.2f} ± {ci:.2f} | {plain['wb']:.2f} | {deep['wb']:.2f} | "
                     f"{plain['stoi']:.3f} | {deep['stoi']:.3f} | {row['delay_ms']['mean']} / {with_them['delay_ms']['mean']} |")
    return "\n".join(lines) + "\n"

COLOURS = {"gateway": "#0b6e4f", "oracle": "#888888", "naive": "#c8553d"}

def chart(title, x_label, y_label, series, y_range, caption=manifest["sender"]):
    """Lines as SVG: `series` is a list of (name, colour, [(x, y)])."""
    width, height, left, top, right, bottom = 640, 360, 60, 40, 130, 50
    xs = [x for _, _, line in series for x, _ in line] or [0, 1]
    low, high = y_range
    x_of = lambda x: left + (x - min(xs)) / max(max(xs) - min(xs), 1e-9) * (width - left - right)
    y_of = lambda y: height - bottom - (y - low) / (high - low) * (height - top - bottom)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="22" font-size="15">{title}</text>']
    for step in range(6):
        value = low + (high - low) * step / 5
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for x in sorted(set(xs)):
        out.append(f'<text x="{x_of(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">{x_label}</text>'
               f'<text x="16" y="{(top + height - bottom) / 2}" text-anchor="middle" transform="rotate(-90 16 {(top + height - bottom) / 2})">{y_label}</text>')
    for index, (name, colour, line) in enumerate(series):
        points = " ".join(f"{x_of(x):.1f},{y_of(min(max(y, low), high)):.1f}" for x, y in line)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(min(max(y, low), high)):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        out.append(f'<text x="{width - right + 10}" y="{top + 16 * index + 10}" fill="{colour}">{name}</text>')
    out.append(f'<text x="{left}" y="36" font-size="9" fill="#666">{caption}</text>')
    return "\n".join(out + ["</svg>", ""])

def charts(rows):
    plain = [(name, row) for name, row in rows.items() if row["direction"] == "OpusToPcmu" and not row["dtx"] and not row["network"]["drift_ppm"] and not row["network"]["spike_ms"]]
    for burst, word in ((1, "random"), (3, "bursts")):
        chosen = [row for _, row in plain if row["network"]["jitter_ms"] == 0 and (row["network"]["burst"] == burst or row["network"]["loss_pct"] == 0)]
        chosen.sort(key=lambda row: row["network"]["loss_pct"])
        series = [(v, COLOURS[v], [(row["network"]["loss_pct"], row[v]["nb"]) for row in chosen]) for v in ("oracle", "gateway", "naive")]
        (result_folder / f"quality-loss-{word}.svg").write_text(chart(f"Opus to PCMU, {word} loss", "loss, %", "PESQ-NB", series, (1.0, 4.0)))
    series = []
    for loss, colour, pale in ((0, "#0b6e4f", "#9cc9b8"), (5, "#3d7ec8", "#a9c6e6"), (20, "#c8553d", "#e6b3a8")):
        chosen = sorted((row for _, row in plain if row["network"]["loss_pct"] == loss and row["network"]["burst"] == 1), key=lambda row: row["network"]["jitter_ms"])
        for what in ("mean", "p95"):
            series.append((f"{loss} % loss, {what}", colour if what == "mean" else pale, [(row["network"]["jitter_ms"], row["delay_ms"][what]) for row in chosen]))
    (result_folder / "quality-delay-jitter.svg").write_text(chart("Added delay, Opus to PCMU", "jitter, ms", "delay, ms", series, (0, 150)))
    chosen = sorted((row for row in rows.values() if row["direction"] == "PcmuToLossyOpus"), key=lambda row: row["network"]["loss_pct"])
    series = [(label, COLOURS[v], [(row["network"]["loss_pct"], row[v]["nb"]) for row in chosen])
              for v, label in (("oracle", "FEC at once"), ("gateway", "FEC by reports"), ("naive", "no FEC"))]
    (result_folder / "quality-loss-behind.svg").write_text(chart("PCMU to Opus, random loss behind the gateway", "loss, %", "PESQ-NB", series, (1.0, 4.0), ENCODER))

def main():
    points = [point for point in manifest["points"] if point]
    tasks = [(point, variant) for point in points for variant in ("gateway", "oracle", "naive")]
    (heard_folder.parent / "scores").mkdir(exist_ok=True)
    with multiprocessing.Pool() as pool:
        scored = pool.map(score_of, tasks, chunksize=1)
    rows = {}
    for (point, variant), result in zip(tasks, scored):
        row = rows.setdefault(point["name"], {key: point[key] for key in ("direction", "network", "dtx")})
        nb, ci = mean_of(result["nb"])
        row[variant] = {"nb": nb, "nb_ci": ci, "nb_each": [round(x, 3) for x in result["nb"]]}
        if result["wb"]:
            row[variant].update(wb=mean_of(result["wb"])[0], stoi=mean_of(result["stoi"])[0])
        row["delay_ms"] = {key: point["added_delay_ms"][key] for key in ("mean", "p50", "p95", "max", "heard_mean")}
        row["concealed_pct"] = round(100 * point["concealed"] / max(point["packets"], 1), 1)
        row["lost_pct"] = round(100 * point["lost"] / max(point["packets"], 1), 1)
        row["late_at_endpoint"] = point["late_at_endpoint"]
        row["redundant"] = point["redundant"]
        row["sender"] = point["sender"] if point["direction"] == "OpusToPcmu" else SENDERS[point["direction"]]
        row["playout"] = point.get("playout") or {}
    for row in rows.values():
        row["from_oracle"], row["from_oracle_ci"] = mean_of(numpy.subtract(row["gateway"]["nb_each"], row["oracle"]["nb_each"]))
    judged = verdicts(rows)
    table = networks_of(rows) if mode == "deep" else table_of(rows)
    judgement = "\n".join(["| target | value | wanted | |", "|---|---|---|---|"] +
                          [f"| {line['point']}, {line['what']} | {line['value']} | {line['target']} | {'met' if line['met'] else '**missed**'} |" for line in judged]) + "\n"
    others = rivals_of(rows) if mode == "full" else ""
    print(table + "\n" + judgement)
    result_folder.mkdir(parents=True, exist_ok=True)
    (result_folder / f"quality-{mode}.json").write_text(json.dumps({"sender": manifest["sender"], "points": rows, "verdicts": judged} | ({"stated": {"points": RIVAL_POINTS, "scores": RIVALS}} if mode == "full" else {}), indent=1) + "\n")
    (result_folder / f"quality-{mode}.md").write_text("\n".join(filter(None, [table, judgement if judged else "", others])))
    if mode == "full":
        charts(rows)
    return 0 if all(line["met"] for line in judged) else 1

if __name__ == "__main__":
    status = main()
    sys.exit(status)
