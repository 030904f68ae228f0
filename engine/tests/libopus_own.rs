//! The functions of ours inside libopus (`engine/libopus`) are libopus's to the bit, over speech and over what no encoder writes.
//!
//! Which of both are called is decided as a process begins, so this program starts itself: once with both, which ends at the first
//! difference in anything that they leave behind, once with libopus's alone, once as the gateway runs. All packets and samples must be
//! the same.

use opus::{Application, Bandwidth, Bitrate, Channels, Decoder, Encoder, Signal};
use std::f64::consts::TAU;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::{Child, Command, Stdio};

const CALLER_16K: &[u8] = include_bytes!("../../control/standin/speech/caller-16k.wav");
const GREETING_8K: &[u8] = include_bytes!("../../control/standin/speech/greeting-8k.wav");

/// The longest packet: 120 ms at 48 kHz, of two channels.
const DECODED_MAX: usize = 5_760 * 2;
const PACKET_MAX: usize = 1_275;

/// Hostile packets of each kind.
const HOSTILE: usize = 6_000;

#[test]
fn ours_write_the_packets_and_the_samples_that_libopus_writes() {
    let [(usual, _), (plain, _), (compared, told)] =
        [None, Some("LIBOPUS_PLAIN"), Some("LIBOPUS_COMPARED")].map(play).map(played);
    assert_eq!(usual, plain, "ours and libopus's");
    assert_eq!(compared, plain, "both at once");

    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let each = [
            ("silk_A2NLSF", 10_000),
            ("silk_NLSF_del_dec_quant", 10_000),
            ("silk_VQ_WMat_EC", 10_000),
            ("silk_decode_core", 10_000),
            ("silk_decode_core (saturated)", 20),
            ("silk_decode_pulses", 10_000),
            ("silk_noise_shape_quantizer", 10_000),
            ("ec_enc_icdf", 100_000),
            ("silk_encode_signs", 5_000),
            ("silk_warped_autocorrelation_FLP", 4_000),
        ];
        for (function, at_least) in each {
            let line = format!("libopus: {function} and ours alike ");
            let times = told.lines().find_map(|told| told.strip_prefix(&line)?.split(' ').next()?.parse().ok());
            assert!(times >= Some(at_least), "{function} compared {times:?} times: {told}");
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    drop(told);
}

/// Starts `plays_everything` in a process of its own.
fn play(variable: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "plays_everything", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env_remove("LIBOPUS_PLAIN").env_remove("LIBOPUS_COMPARED");
    if let Some(variable) = variable {
        command.env(variable, "1");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it prints in the end, and what it told besides.
fn played(player: Child) -> (String, String) {
    let output = player.wait_with_output().unwrap();
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}", output.status);
    let hashes: Vec<&str> = printed.lines().filter(|line| line.starts_with("hash ")).collect();
    assert_eq!(hashes.len(), 5, "{printed}");
    (hashes.join("\n"), told.into_owned())
}

#[test]
#[ignore = "the other test runs it, in three processes"]
fn plays_everything() {
    let voices = voices();
    let mut player = Player::new();
    encode_each_effort(&voices, &mut player);
    player.print("encoders");
    decode_each_bandwidth(&voices, &mut player);
    player.print("decoders");
    decode_random(&mut player);
    player.print("random");
    decode_mutated(&mut player);
    player.print("mutated");
    decode_spliced(&mut player);
    player.print("spliced");
}

/// Encoders at every effort, rate and setting of a call, each with a voice of its own.
fn encode_each_effort(voices: &[Vec<i16>], player: &mut Player) {
    for complexity in 0..=10 {
        for (number, rate_hz) in [8_000, 12_000, 16_000].into_iter().enumerate() {
            for (is_dtx, loss_pct, bits) in [(false, 0, 20_000), (true, 0, 9_000), (false, 15, 28_000)] {
                let voice = &voices[(complexity + number) % voices.len()];
                let mut encoder = Encoder::new(rate_hz, Channels::Mono, Application::Voip).unwrap();
                encoder.set_complexity(complexity as i32).unwrap();
                encoder.set_bitrate(Bitrate::Bits(bits)).unwrap();
                encoder.set_dtx(is_dtx).unwrap();
                encoder.set_inband_fec(loss_pct > 0).unwrap();
                encoder.set_packet_loss_perc(loss_pct).unwrap();
                let samples = rate_hz as usize / 50;
                for frame in voice.chunks_exact(samples).skip(40 * complexity).take(40) {
                    player.encode(&mut encoder, frame);
                }
            }
        }
    }
}

/// Decoders of every bandwidth, frame and rate, with losses that are recovered, concealed or not seen at all.
fn decode_each_bandwidth(voices: &[Vec<i16>], player: &mut Player) {
    let settings = [
        (8_000, Bandwidth::Narrowband, 14_000),
        (12_000, Bandwidth::Mediumband, 18_000),
        (16_000, Bandwidth::Wideband, 22_000),
        (24_000, Bandwidth::Superwideband, 32_000),
        (48_000, Bandwidth::Fullband, 36_000),
    ];
    for (rate_hz, bandwidth, bits) in settings {
        for frame_ms in [10, 20, 40, 60] {
            for voice in voices {
                let mut encoder = Encoder::new(rate_hz, Channels::Mono, Application::Voip).unwrap();
                encoder.set_bandwidth(bandwidth).unwrap();
                encoder.set_bitrate(Bitrate::Bits(bits)).unwrap();
                encoder.set_complexity(1).unwrap();
                encoder.set_inband_fec(true).unwrap();
                encoder.set_packet_loss_perc(20).unwrap();
                let samples = rate_hz as usize * frame_ms / 1_000;
                let packets: Vec<Vec<u8>> = voice
                    .chunks_exact(samples)
                    .take(2_000 / frame_ms)
                    .map(|frame| player.encode(&mut encoder, frame))
                    .collect();
                for out_hz in [8_000, 16_000, 48_000] {
                    player.decode_with_losses(&packets, out_hz, frame_ms);
                }
            }
        }
    }
}

/// Random bytes behind the first byte of every mode, bandwidth and length: whatever those decode to, saturated or not.
fn decode_random(player: &mut Player) {
    let mut decoders = player.decoders();
    for number in 0..HOSTILE {
        // Most of it SILK (RFC 6716 §3.1: configurations 0 to 11), some hybrid and CELT, one frame or two, mono and stereo.
        let config = if number % 4 == 3 { player.below(32) } else { player.below(12) };
        let len = 2 + player.below(if number % 8 == 0 { 400 } else { 60 });
        let mut packet: Vec<u8> = (0..len).map(|_| player.random() as u8).collect();
        packet[0] = (config << 3 | player.below(2) << 2 | player.below(2)) as u8;
        let which = player.below(decoders.len());
        player.decode(&mut decoders[which], &packet, number % 16 == 15);
    }
}

/// What a phone sends, with some bits of it turned.
fn decode_mutated(player: &mut Player) {
    let packets = core::mem::take(&mut player.heard);
    let mut decoders = player.decoders();
    for number in 0..HOSTILE {
        let mut packet = packets[player.below(packets.len())].clone();
        for _ in 0..=player.below(4) {
            let place = player.below(packet.len() * 8);
            packet[place / 8] ^= 1 << (place % 8);
        }
        if number % 8 == 0 {
            let len = 1 + player.below(packet.len());
            packet.truncate(len);
        }
        let which = player.below(decoders.len());
        player.decode(&mut decoders[which], &packet, number % 16 == 15);
    }
}

/// A loud tone and a soft one by turns, two packets of each: the soft one's small gain makes the loud one's end, as the filters remember it,
/// more than they can hold.
fn decode_spliced(player: &mut Player) {
    for rate_hz in [8_000, 12_000, 16_000] {
        for tone_hz in (200..3_500).step_by(100) {
            let mut decoder = Decoder::new(rate_hz, Channels::Mono).unwrap();
            let mut encoders = [(30_000.0, false), (60.0, true)].map(|(level, is_soft)| {
                let mut encoder = Encoder::new(rate_hz, Channels::Mono, Application::Voip).unwrap();
                encoder.set_bitrate(Bitrate::Bits(24_000)).unwrap();
                encoder.set_complexity(1).unwrap();
                encoder.set_signal(Signal::Voice).unwrap();
                (encoder, level, is_soft)
            });
            let samples = rate_hz as usize / 50;
            for number in 0..50 {
                for (encoder, level, is_soft) in &mut encoders {
                    let begin = number * samples;
                    let at = |place: usize| (TAU * f64::from(tone_hz) * place as f64 / f64::from(rate_hz)).sin();
                    let tone: Vec<i16> = (begin..begin + samples).map(|place| (*level * at(place)) as i16).collect();
                    let packet = player.encode(encoder, &tone);
                    if (number / 2 % 2 == 1) == *is_soft {
                        player.decode(&mut decoder, &packet, false);
                    }
                }
            }
        }
    }
}

/// Runs libopus and keeps count of all that it writes.
struct Player {
    written: DefaultHasher,
    seed: u64,
    /// Packets that were encoded.
    heard: Vec<Vec<u8>>,
}

impl Player {
    fn new() -> Player {
        Player { written: DefaultHasher::new(), seed: 0x5eed, heard: Vec::new() }
    }

    fn print(&self, name: &str) {
        println!("\nhash {name} {:016x}", self.written.finish());
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ self.seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random() % limit as u64) as usize
    }

    /// Decoders of every rate, mono and stereo.
    fn decoders(&self) -> Vec<Decoder> {
        let rates = [8_000, 12_000, 16_000, 24_000, 48_000];
        let channels = [Channels::Mono, Channels::Stereo];
        rates.iter().flat_map(|&rate| channels.map(|channels| Decoder::new(rate, channels).unwrap())).collect()
    }

    fn encode(&mut self, encoder: &mut Encoder, frame: &[i16]) -> Vec<u8> {
        let packet = encoder.encode_vec(frame, PACKET_MAX).unwrap();
        packet.hash(&mut self.written);
        if packet.len() > 2 {
            self.heard.push(packet.clone());
        }
        packet
    }

    /// One packet, or with `is_lost` what was lost before it; an error is an answer too.
    fn decode(&mut self, decoder: &mut Decoder, packet: &[u8], is_lost: bool) {
        let mut out = [0; DECODED_MAX];
        let room = if is_lost { decoder.get_last_packet_duration().unwrap_or(0) as usize } else { DECODED_MAX / 2 };
        let samples = decoder.decode(packet, &mut out[..room * 2], is_lost);
        let samples = samples.unwrap_or(0);
        samples.hash(&mut self.written);
        out[..(samples * 2).min(DECODED_MAX)].hash(&mut self.written);
    }

    fn decode_with_losses(&mut self, packets: &[Vec<u8>], rate_hz: u32, frame_ms: usize) {
        let mut decoder = Decoder::new(rate_hz, Channels::Mono).unwrap();
        let samples = rate_hz as usize * frame_ms / 1_000;
        let mut out = [0; DECODED_MAX];
        let mut lost_before = 0;
        for packet in packets {
            if self.below(10) == 0 {
                lost_before += 1;
                continue;
            }
            for lost in (0..lost_before).rev() {
                // The last one from its copy, as a receiver with a jitter buffer does; those before are made up.
                let is_copied = lost == 0 && self.below(2) == 0;
                decoder.decode(if is_copied { packet } else { &[] }, &mut out[..samples], is_copied).unwrap();
                out[..samples].hash(&mut self.written);
            }
            lost_before = self.below(20) / 19;
            let got = decoder.decode(packet, &mut out, false).unwrap();
            out[..got].hash(&mut self.written);
        }
    }
}

/// Speech of a woman and a man, each at several speeds (so of other pitch), too loud, too soft, with noise; and what is no speech.
fn voices() -> Vec<Vec<i16>> {
    let (caller, greeting) = (samples(CALLER_16K), samples(GREETING_8K));
    let mut voices = vec![caller.clone(), greeting.clone()];
    voices.push(played_at(&caller, 1.4));
    voices.push(played_at(&greeting, 0.6));
    voices.push(caller.iter().map(|&sample| sample.saturating_mul(12)).collect());
    voices.push(greeting.iter().map(|&sample| sample / 64).collect());
    let mut noise = Player::new();
    voices.push(caller.iter().map(|&sample| sample / 2 + (noise.random() as i16) / 32).collect());
    voices.push(
        (0..32_000)
            .map(|place| if place / 4_000 % 3 == 0 { 0 } else { (place % 53 * 1_100 - 28_000) as i16 })
            .collect(),
    );
    voices
}

fn samples(wav: &[u8]) -> Vec<i16> {
    let data = wav.windows(4).position(|window| window == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn played_at(voice: &[i16], speed: f64) -> Vec<i16> {
    (0..(voice.len() as f64 / speed) as usize).map(|place| voice[(place as f64 * speed) as usize]).collect()
}
