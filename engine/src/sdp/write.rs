//! Writing descriptions: line by line, in the order that browsers use and Meta's example shows.
//!
//! The same input gives the same bytes: WhatsApp gets one text twice, in pre_accept and in accept.

use super::{
    Codec, CodecFormat, CryptoLine, Description, Direction, Fingerprint, OpusParameters, Profile, RejectedSection,
    RtpLocal, Setup, TelephoneEventFormat, WebrtcLocal,
};
use crate::limits::PTIME_MS;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};

/// CNAME and stream name. One stream per leg, so nothing has to be told apart by it.
const STREAM_NAME: &str = "tandem";

/// Writes the answer to a WebRTC offer: same sections in the same order, mid and BUNDLE repeated, one sha-256 fingerprint,
/// `ptime:20`, one `a=ssrc`, candidates with `end-of-candidates` (RFC 8829 §5.3, Meta's rules). The direction mirrors the
/// offer's, `sendrecv` to `sendrecv`; RTCP is muxed if that was offered (RFC 5761 §5.1.1).
pub fn write_webrtc_answer(offer: &Description, local: &WebrtcLocal) -> String {
    let mut out = Text::new();
    let mid = offer.mid.as_deref();
    out.webrtc_session(local, mid.filter(|_| offer.bundled));
    let section = WebrtcSection {
        profile: offer.profile,
        mid,
        direction: mirrored(offer.direction),
        rtcp_mux: offer.rtcp_mux,
        codecs: &[local.codec],
        events: local.telephone_event.as_slice(),
        local,
    };
    out.in_shape_of(offer, |out| out.webrtc_section(&section));
    out.0
}

/// Writes an offer for a WebRTC leg that is ours to describe first, to WhatsApp, a softphone or a trunk. ICE is full or lite
/// by `local`, `a=setup` should be `ActPass` (RFC 8842 §5.1). `others` are further codecs and events behind those of `local`,
/// in order of preference: the peer answers with one.
pub fn write_webrtc_offer(
    local: &WebrtcLocal,
    mid: &str,
    other_codecs: &[CodecFormat],
    other_events: &[TelephoneEventFormat],
) -> String {
    let mut out = Text::new();
    out.webrtc_session(local, Some(mid));
    out.webrtc_section(&WebrtcSection {
        profile: Profile::UdpTlsRtpSavpf,
        mid: Some(mid),
        direction: local.direction,
        rtcp_mux: true,
        codecs: &[&[local.codec], other_codecs].concat(),
        events: &local.telephone_event.iter().chain(other_events).copied().collect::<Vec<_>>(),
        local,
    });
    out.0
}

/// Writes an RTP offer in the shape SIP trunks expect (`ptime:20`): plain, or SDES with `local.crypto`.
pub fn write_rtp_offer(local: &RtpLocal) -> String {
    let mut out = Text::new();
    out.rtp_session(local);
    out.rtp_section(&RtpSection {
        profile: local.profile,
        mid: None,
        rtcp_mux: local.rtcp_mux,
        codecs: &local.codecs,
        events: &local.telephone_events,
        crypto: &local.crypto,
        local,
    });
    out.0
}

/// Writes the answer to an RTP offer: same sections, the profile repeated (RFC 3264 §6), RTCP muxed if that was offered, the
/// first codec, event and crypto line of `local`.
pub fn write_rtp_answer(offer: &Description, local: &RtpLocal) -> String {
    let mut out = Text::new();
    out.rtp_session(local);
    let section = RtpSection {
        profile: offer.profile,
        mid: offer.mid.as_deref(),
        rtcp_mux: offer.rtcp_mux,
        codecs: first(&local.codecs),
        events: first(&local.telephone_events),
        crypto: first(&local.crypto),
        local,
    };
    out.in_shape_of(offer, |out| out.rtp_section(&section));
    out.0
}

fn first<T>(items: &[T]) -> &[T] {
    &items[..items.len().min(1)]
}

/// RFC 3264 §6.1: what one side only sends, the other only receives.
fn mirrored(direction: Direction) -> Direction {
    match direction {
        Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly => Direction::SendOnly,
        Direction::SendRecv | Direction::Inactive => direction,
    }
}

struct WebrtcSection<'l> {
    profile: Profile,
    mid: Option<&'l str>,
    direction: Direction,
    rtcp_mux: bool,
    codecs: &'l [CodecFormat],
    events: &'l [TelephoneEventFormat],
    local: &'l WebrtcLocal,
}

struct RtpSection<'l> {
    profile: Profile,
    mid: Option<&'l str>,
    rtcp_mux: bool,
    codecs: &'l [CodecFormat],
    events: &'l [TelephoneEventFormat],
    crypto: &'l [CryptoLine],
    local: &'l RtpLocal,
}

/// The text so far.
struct Text(String);

impl Text {
    fn new() -> Text {
        Text(String::with_capacity(1_024))
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // INVARIANT: writing to a String does not fail.
        self.0.write_fmt(line).expect("a String takes everything");
        self.0.push_str("\r\n");
    }

    fn session(&mut self, id: u64, version: u64, ip: IpAddr) {
        self.line(format_args!("v=0"));
        self.line(format_args!("o=- {id} {version} IN {} {ip}", family(ip)));
        self.line(format_args!("s=-"));
    }

    /// The offer's sections in their order: `used` writes the one that is accepted, the others get port 0.
    fn in_shape_of(&mut self, offer: &Description, used: impl FnOnce(&mut Text)) {
        let split = offer.section_index.min(offer.rejected.len());
        offer.rejected[..split].iter().for_each(|section| self.rejected_section(section));
        used(self);
        offer.rejected[split..].iter().for_each(|section| self.rejected_section(section));
    }

    fn rejected_section(&mut self, section: &RejectedSection) {
        self.line(format_args!("m={} 0 {} {}", section.media, section.proto, section.formats));
        self.line(format_args!("c=IN IP4 0.0.0.0"));
        if let Some(mid) = &section.mid {
            self.line(format_args!("a=mid:{mid}"));
        }
        self.line(format_args!("a=inactive"));
    }

    fn webrtc_session(&mut self, local: &WebrtcLocal, bundled_mid: Option<&str>) {
        self.session(local.session_id, local.session_version, webrtc_ip(local));
        self.line(format_args!("t=0 0"));
        if let Some(mid) = bundled_mid {
            self.line(format_args!("a=group:BUNDLE {mid}"));
        }
        self.line(format_args!("a=msid-semantic: WMS {STREAM_NAME}"));
        if local.lite {
            self.line(format_args!("a=ice-lite")); // at session level only (RFC 8839 §5.3)
        }
    }

    fn webrtc_section(&mut self, section: &WebrtcSection<'_>) {
        let local = section.local;
        let ip = webrtc_ip(local);
        self.media(local.port, section.profile, section.codecs, section.events);
        self.line(format_args!("c=IN {} {ip}", family(ip)));
        self.line(format_args!("a=rtcp:9 IN IP4 0.0.0.0"));
        for (index, ip) in local.addresses.iter().enumerate() {
            let (foundation, port) = (index + 1, local.port);
            let priority = host_priority(index);
            self.line(format_args!("a=candidate:{foundation} 1 udp {priority} {ip} {port} typ host"));
        }
        self.line(format_args!("a=end-of-candidates"));
        self.line(format_args!("a=ice-ufrag:{}", local.ufrag));
        self.line(format_args!("a=ice-pwd:{}", local.pwd));
        self.line(format_args!("a=fingerprint:sha-256 {}", Hex(&local.fingerprint)));
        self.line(format_args!("a=setup:{}", setup_name(local.setup)));
        if let Some(mid) = section.mid {
            self.line(format_args!("a=mid:{mid}"));
        }
        self.line(format_args!("a={}", direction_name(section.direction)));
        self.line(format_args!("a=msid:{STREAM_NAME} audio0"));
        if section.rtcp_mux {
            self.line(format_args!("a=rtcp-mux"));
        }
        self.formats(section.codecs, section.events);
        self.line(format_args!("a=maxptime:{PTIME_MS}"));
        self.line(format_args!("a=ptime:{PTIME_MS}"));
        self.line(format_args!("a=ssrc:{} cname:{STREAM_NAME}", local.ssrc));
    }

    fn rtp_session(&mut self, local: &RtpLocal) {
        self.session(local.session_id, local.session_version, local.address);
        self.line(format_args!("c=IN {} {}", family(local.address), local.address));
        self.line(format_args!("t=0 0"));
    }

    fn rtp_section(&mut self, section: &RtpSection<'_>) {
        let local = section.local;
        self.media(local.port, section.profile, section.codecs, section.events);
        for crypto in section.crypto {
            self.line(format_args!("a=crypto:{crypto}"));
        }
        self.formats(section.codecs, section.events);
        self.line(format_args!("a=ptime:{PTIME_MS}"));
        if let Some(mid) = section.mid {
            self.line(format_args!("a=mid:{mid}"));
        }
        self.line(format_args!("a={}", direction_name(local.direction)));
        if section.rtcp_mux {
            self.line(format_args!("a=rtcp-mux"));
        }
    }

    fn media(&mut self, port: u16, profile: Profile, codecs: &[CodecFormat], events: &[TelephoneEventFormat]) {
        let numbers = codecs.iter().map(|format| format.payload_type);
        let numbers = numbers.chain(events.iter().map(|event| event.payload_type));
        let numbers: String = numbers.map(|number| format!(" {number}")).collect();
        self.line(format_args!("m=audio {port} {}{numbers}", profile_name(profile)));
    }

    fn formats(&mut self, codecs: &[CodecFormat], events: &[TelephoneEventFormat]) {
        for CodecFormat { codec, payload_type, opus } in codecs {
            self.line(format_args!("a=rtpmap:{payload_type} {}", encoding_name(*codec)));
            if *codec == Codec::Opus && *opus != OpusParameters::default() {
                self.line(format_args!("a=fmtp:{payload_type} {}", opus_parameters(opus)));
            }
        }
        for TelephoneEventFormat { payload_type, clock_rate_hz } in events {
            self.line(format_args!("a=rtpmap:{payload_type} telephone-event/{clock_rate_hz}"));
            // The sixteen keys and flash, as everyone writes it (RFC 4733 §2.4.1).
            self.line(format_args!("a=fmtp:{payload_type} 0-16"));
        }
    }
}

fn webrtc_ip(local: &WebrtcLocal) -> IpAddr {
    local.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// RFC 8445 §5.1.2.1: host type, one step of local preference per address, component 1.
fn host_priority(index: usize) -> u32 {
    (126 << 24) | (65_535_u32.saturating_sub(index as u32) << 8) | 255
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IP4" } else { "IP6" }
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::RtpAvp => "RTP/AVP",
        Profile::RtpAvpf => "RTP/AVPF",
        Profile::RtpSavp => "RTP/SAVP",
        Profile::RtpSavpf => "RTP/SAVPF",
        Profile::UdpTlsRtpSavp => "UDP/TLS/RTP/SAVP",
        Profile::UdpTlsRtpSavpf => "UDP/TLS/RTP/SAVPF",
    }
}

fn setup_name(setup: Setup) -> &'static str {
    match setup {
        Setup::ActPass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}

fn encoding_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Opus => "opus/48000/2", // always, whatever is sent (RFC 7587 §7)
        Codec::Pcmu => "PCMU/8000",
        Codec::Pcma => "PCMA/8000",
        Codec::G722 => "G722/8000", // though it carries 16 kHz (RFC 3551 §4.5.2)
    }
}

fn opus_parameters(opus: &OpusParameters) -> String {
    let number = |name, value: Option<u32>| value.map(|value| format!("{name}={value}"));
    let flag = |name, value: bool| value.then(|| format!("{name}=1"));
    let parameters = [
        number("minptime", opus.min_ptime_ms),
        flag("useinbandfec", opus.use_inband_fec),
        number("maxaveragebitrate", opus.max_average_bitrate),
        number("maxplaybackrate", opus.max_playback_rate_hz),
        number("sprop-maxcapturerate", opus.max_capture_rate_hz),
        flag("stereo", opus.stereo),
        flag("usedtx", opus.use_dtx),
    ];
    parameters.into_iter().flatten().collect::<Vec<_>>().join(";")
}

/// Upper-case pairs with colons (RFC 8122 §5).
struct Hex<'f>(&'f Fingerprint);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(formatter, "{separator}{byte:02X}")?;
        }
        Ok(())
    }
}
