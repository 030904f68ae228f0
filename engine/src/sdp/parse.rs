//! Reading a description.
//!
//! First the text is cut into lines and rebuilt from those that mean something here (`m=`, `c=`, `a=`), with `v=`, `o=`,
//! `s=` and `t=` replaced; then `sdp-types` splits it into sections and attributes; then the first audio section that can
//! be used is read. An attribute that cannot be read counts as absent: RFC 8866 §5.13 has us ignore what we do not know.

use super::{
    Candidate, Codec, CodecFormat, Description, Direction, Fingerprint, IceDescription, OpusParameters, Profile,
    RejectedSection, SdpError, Setup, TelephoneEventFormat,
};
use crate::limits::{REMOTE_CANDIDATES_MAX, SDP_BYTES_MAX};
use sdp_types::{Attribute, Connection, Media, Session};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Longest ufrag and pwd (RFC 8839 §5.4).
const ICE_CHARS_MAX: usize = 256;

/// Reads a description, tolerant of what real peers write: LF only, missing `s=` text, session-level attributes, odd `o=`
/// lines, `=` in ice-pwd. Unknown attributes are ignored (RFC 8866 §5.13).
pub fn parse(text: &str) -> Result<Description, SdpError> {
    if text.len() > SDP_BYTES_MAX {
        return Err(SdpError::TooLong);
    }
    let (origin, clean) = clean(text)?;
    let session = Session::parse(clean.as_bytes()).map_err(|_| SdpError::Malformed)?;
    let mut error = SdpError::NoAudio;
    for (index, media) in session.medias.iter().enumerate() {
        match Section::examine(&session, media) {
            Ok(section) => return Ok(section.describe(origin, index)),
            Err(refusal) => error = worse_of(error, refusal),
        }
    }
    Err(error)
}

/// The refusal that came furthest says most.
fn worse_of(a: SdpError, b: SdpError) -> SdpError {
    let progress = |error| match error {
        SdpError::NoCommonCodec => 2,
        SdpError::UnknownProfile => 1,
        _ => 0,
    };
    if progress(b) > progress(a) { b } else { a }
}

/// The pre-pass: `o=` id and version, and the text with nothing in it that `sdp-types` could stumble over.
fn clean(text: &str) -> Result<((String, String), String), SdpError> {
    let mut lines =
        text.trim_start_matches('\u{feff}').split(['\r', '\n']).map(str::trim_end).filter(|line| !line.is_empty());
    if lines.next() != Some("v=0") {
        return Err(SdpError::Malformed);
    }
    let mut origin = (String::new(), String::new());
    let mut out = String::with_capacity(text.len() + 64);
    out.push_str("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n");
    let mut has_connection = false;
    for line in lines {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "m" => {
                has_connection = false;
                push_line(&mut out, key, &value.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            // Several c= lines of a section are multicast layers (RFC 8866 §5.7); the first counts.
            "c" if !has_connection && value.split_whitespace().count() == 3 => {
                has_connection = true;
                push_line(&mut out, key, value);
            }
            "a" => push_line(&mut out, key, value),
            "o" if origin.0.is_empty() => {
                let mut fields = value.split_whitespace().skip(1).map(str::to_owned);
                origin = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            }
            _ => {}
        }
    }
    Ok((origin, out))
}

fn push_line(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    out.push('=');
    out.push_str(value);
    out.push_str("\r\n");
}

/// An audio section that can be used, in its session.
struct Section<'s> {
    session: &'s Session,
    media: &'s Media,
    profile: Profile,
    codecs: Vec<CodecFormat>,
    telephone_events: Vec<TelephoneEventFormat>,
}

impl<'s> Section<'s> {
    fn examine(session: &'s Session, media: &'s Media) -> Result<Section<'s>, SdpError> {
        if !media.media.eq_ignore_ascii_case("audio") || media.port == 0 {
            return Err(SdpError::NoAudio);
        }
        let profile = parse_profile(&media.proto).ok_or(SdpError::UnknownProfile)?;
        let (codecs, telephone_events) = parse_formats(media);
        if codecs.is_empty() {
            return Err(SdpError::NoCommonCodec);
        }
        Ok(Section { session, media, profile, codecs, telephone_events })
    }

    fn describe(self, origin: (String, String), section_index: usize) -> Description {
        let address = self.address();
        let mid = self.value("mid").map(str::to_owned);
        let ice = self.ice();
        let direction = self.direction(ice.is_some());
        let number = |name| self.value(name).and_then(|value| value.trim().parse::<u32>().ok());
        let is_used = |index: usize| index == section_index;
        let others = self.session.medias.iter().enumerate().filter(|(index, _)| !is_used(*index));
        Description {
            origin,
            profile: self.profile,
            address,
            rtcp_address: self.rtcp_address(address),
            rtcp_mux: self.has("rtcp-mux"),
            bundled: mid.as_deref().is_some_and(|mid| is_bundled(self.session, mid)),
            mid,
            direction,
            ptime_ms: number("ptime"),
            max_ptime_ms: number("maxptime"),
            ice,
            fingerprint: self.fingerprint(),
            setup: self.value_of_either("setup").and_then(parse_setup),
            crypto: values(&self.media.attributes, "crypto").map(str::to_owned).collect(),
            ssrc: values(&self.media.attributes, "ssrc").find_map(|value| value.split(' ').next()?.parse().ok()),
            section_index,
            rejected: others.map(|(_, media)| parse_rejected(media)).collect(),
            codecs: self.codecs,
            telephone_events: self.telephone_events,
        }
    }

    /// First value of a media-level attribute.
    fn value(&self, name: &str) -> Option<&'s str> {
        values(&self.media.attributes, name).next()
    }

    /// The section's own value, else the session's.
    fn value_of_either(&self, name: &str) -> Option<&'s str> {
        self.value(name).or_else(|| values(&self.session.attributes, name).next())
    }

    fn has(&self, name: &str) -> bool {
        has(&self.media.attributes, name)
    }

    fn connection(&self) -> Option<IpAddr> {
        let own = self.media.connections.first();
        own.or(self.session.connection.as_ref()).and_then(parse_connection)
    }

    /// `None` also for `0.0.0.0`: there RTP is wanted nowhere (the hold of RFC 2543).
    fn address(&self) -> Option<SocketAddr> {
        let ip = self.connection().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())?;
        Some(SocketAddr::new(ip, self.media.port))
    }

    /// RFC 3605 §2.1: a port, and an address if it is not that of `c=`. Browsers fill in `9 IN IP4 0.0.0.0`.
    fn rtcp_address(&self, rtp: Option<SocketAddr>) -> Option<SocketAddr> {
        let mut fields = self.value("rtcp")?.split_whitespace();
        let port = fields.next()?.parse::<u16>().ok().filter(|port| *port != 0 && *port != 9)?;
        let ip = match fields.nth(2) {
            Some(address) => address.parse().ok()?,
            None => rtp?.ip(),
        };
        Some(SocketAddr::new(ip, port)).filter(|address| !address.ip().is_unspecified() && !address.ip().is_multicast())
    }

    fn direction(&self, has_ice: bool) -> Direction {
        let own = parse_direction(&self.media.attributes);
        let direction = own.or_else(|| parse_direction(&self.session.attributes)).unwrap_or_default();
        // RFC 3264 §8.4: c=0.0.0.0 is the old way to say "send me nothing". With ICE it only means "see the candidates".
        let is_old_hold = !has_ice && self.connection().is_some_and(|ip| ip.is_unspecified());
        match direction {
            Direction::SendRecv if is_old_hold => Direction::SendOnly,
            Direction::RecvOnly if is_old_hold => Direction::Inactive,
            other => other,
        }
    }

    fn ice(&self) -> Option<IceDescription> {
        let credential =
            |name| self.value_of_either(name).map(str::trim).filter(|value| (1..=ICE_CHARS_MAX).contains(&value.len()));
        let mut candidates: Vec<Candidate> = Vec::new();
        for candidate in values(&self.media.attributes, "candidate").filter_map(parse_candidate) {
            let is_new = candidates.iter().all(|known| known.address != candidate.address);
            if is_new && candidates.len() < REMOTE_CANDIDATES_MAX {
                candidates.push(candidate);
            }
        }
        Some(IceDescription {
            ufrag: credential("ice-ufrag")?.to_owned(),
            pwd: credential("ice-pwd")?.to_owned(),
            // Session level only, says RFC 8839 §5.3; nobody can mean anything else by it in a section.
            lite: has(&self.session.attributes, "ice-lite") || self.has("ice-lite"),
            candidates,
        })
    }

    /// The section's own fingerprints count before the session's (RFC 8122 §5).
    fn fingerprint(&self) -> Option<Fingerprint> {
        let own = values(&self.media.attributes, "fingerprint").find_map(parse_fingerprint);
        own.or_else(|| values(&self.session.attributes, "fingerprint").find_map(parse_fingerprint))
    }
}

fn values<'a>(attributes: &'a [Attribute], name: &str) -> impl Iterator<Item = &'a str> {
    let named = attributes.iter().filter(move |attribute| attribute.attribute == name);
    named.filter_map(|attribute| attribute.value.as_deref())
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.attribute == name)
}

fn is_bundled(session: &Session, mid: &str) -> bool {
    values(&session.attributes, "group").any(|group| {
        let mut words = group.split_whitespace();
        words.next() == Some("BUNDLE") && words.any(|word| word == mid)
    })
}

/// A multicast address has `/ttl` behind it (RFC 8866 §5.7); a name has no address here.
fn parse_connection(connection: &Connection) -> Option<IpAddr> {
    connection.connection_address.split('/').next()?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn parse_profile(proto: &str) -> Option<Profile> {
    const PROFILES: [(&str, Profile); 6] = [
        ("RTP/AVP", Profile::RtpAvp),
        ("RTP/AVPF", Profile::RtpAvpf),
        ("RTP/SAVP", Profile::RtpSavp),
        ("RTP/SAVPF", Profile::RtpSavpf),
        ("UDP/TLS/RTP/SAVP", Profile::UdpTlsRtpSavp),
        ("UDP/TLS/RTP/SAVPF", Profile::UdpTlsRtpSavpf),
    ];
    PROFILES.iter().find(|(name, _)| proto.eq_ignore_ascii_case(name)).map(|(_, profile)| *profile)
}

fn parse_direction(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| match attribute.attribute.as_str() {
        "sendrecv" => Some(Direction::SendRecv),
        "sendonly" => Some(Direction::SendOnly),
        "recvonly" => Some(Direction::RecvOnly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    })
}

fn parse_setup(value: &str) -> Option<Setup> {
    match value.trim() {
        "actpass" => Some(Setup::ActPass),
        "active" => Some(Setup::Active),
        "passive" => Some(Setup::Passive),
        _ => None,
    }
}

/// `sha-256 AB:CD:...`, the hash function in any case (RFC 8122 §5). Other hashes are left out: `Fingerprint` has none.
fn parse_fingerprint(value: &str) -> Option<Fingerprint> {
    let (hash, hex) = value.trim().split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut fingerprint = [0; 32];
    let mut pairs = hex.trim().split(':');
    for byte in &mut fingerprint {
        let pair =
            pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(fingerprint)
}

/// `foundation component transport priority address port typ type ...` (RFC 8839 §5.1). What we cannot send a check to is
/// left out: TCP, component 2 (RTCP of a peer that could do without mux), mDNS names.
fn parse_candidate(value: &str) -> Option<Candidate> {
    let mut fields = value.split_whitespace().skip(1);
    let component = fields.next()?;
    let transport = fields.next()?;
    let priority = fields.next()?.parse().ok()?;
    let ip = fields.next()?.parse::<IpAddr>().ok()?.to_canonical();
    let port = fields.next()?.parse::<u16>().ok()?;
    let is_usable = component == "1"
        && transport.eq_ignore_ascii_case("udp")
        && fields.next() == Some("typ")
        && port != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !is_link_local(ip);
    is_usable.then_some(Candidate { address: SocketAddr::new(ip, port), priority })
}

/// What is only good on the peer's own link (RFC 8445 §5.1.1.1). With a zone (`fe80::1%eth0`) it is no address at all: the name is the
/// peer's, not ours.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn parse_rejected(media: &Media) -> RejectedSection {
    RejectedSection {
        media: media.media.clone(),
        proto: media.proto.clone(),
        formats: media.fmt.clone(),
        mid: values(&media.attributes, "mid").next().map(str::to_owned),
    }
}

/// The codecs and events of a section, in the order of its `m=` line. Of a repeated number the first counts.
fn parse_formats(media: &Media) -> (Vec<CodecFormat>, Vec<TelephoneEventFormat>) {
    let (mut codecs, mut events) = (Vec::new(), Vec::new());
    let is_muxed = has(&media.attributes, "rtcp-mux");
    let mut seen = [false; 128];
    for payload_type in media.fmt.split_whitespace().filter_map(|format| format.parse::<u8>().ok()) {
        let Some(seen) = seen.get_mut(usize::from(payload_type)) else { continue };
        if std::mem::replace(seen, true) || (is_muxed && (64..=95).contains(&payload_type)) {
            continue; // 64-95 look like RTCP when muxed (RFC 5761 §4)
        }
        match parse_encoding(media, payload_type) {
            Some(Encoding::Audio(codec)) => {
                let opus =
                    if codec == Codec::Opus { parse_opus(media, payload_type) } else { OpusParameters::default() };
                codecs.push(CodecFormat { codec, payload_type, opus });
            }
            Some(Encoding::Event(clock_rate_hz)) => events.push(TelephoneEventFormat { payload_type, clock_rate_hz }),
            None => {}
        }
    }
    (codecs, events)
}

enum Encoding {
    Audio(Codec),
    Event(u32),
}

fn parse_encoding(media: &Media, payload_type: u8) -> Option<Encoding> {
    let static_codec = match payload_type {
        0 => Some(Codec::Pcmu),
        8 => Some(Codec::Pcma),
        9 => Some(Codec::G722),
        _ => None,
    };
    let Some(rtpmap) = values_of_format(media, "rtpmap", payload_type).next() else {
        return static_codec.map(Encoding::Audio); // RFC 3551 §6: valid without rtpmap
    };
    let mut parts = rtpmap.trim().split('/');
    let name = parts.next()?;
    let rate_hz = parts.next()?.trim().parse::<u32>().ok()?;
    let channels = parts.next();
    let is_mono = channels.is_none_or(|channels| channels == "1");
    let encoding = match (name.to_ascii_lowercase().as_str(), rate_hz) {
        // Always "/2", whatever is sent (RFC 7587 §7); some leave it out.
        ("opus", 48_000) if channels.is_none_or(|channels| channels == "2") => Encoding::Audio(Codec::Opus),
        ("pcmu", 8_000) if is_mono => Encoding::Audio(Codec::Pcmu),
        ("pcma", 8_000) if is_mono => Encoding::Audio(Codec::Pcma),
        ("g722", 8_000) if is_mono => Encoding::Audio(Codec::G722),
        ("telephone-event", 8_000 | 48_000) if is_mono => Encoding::Event(rate_hz),
        _ => return None,
    };
    // 0-34 are assigned for good (RFC 3551 §6): a map that says otherwise is a mistake nobody should build on.
    let is_consistent = match encoding {
        Encoding::Audio(codec) => payload_type > 34 || static_codec == Some(codec),
        Encoding::Event(_) => payload_type > 34,
    };
    is_consistent.then_some(encoding)
}

/// Values of `a=<name>:<payload_type> <value>`.
fn values_of_format<'m>(media: &'m Media, name: &str, payload_type: u8) -> impl Iterator<Item = &'m str> {
    values(&media.attributes, name).filter_map(move |value| {
        let (number, rest) = value.trim_start().split_once(' ')?;
        (number.parse() == Ok(payload_type)).then_some(rest)
    })
}

/// RFC 7587 §6.1. Values beyond what the RFC allows are brought to the nearest that it does: they end in an encoder.
fn parse_opus(media: &Media, payload_type: u8) -> OpusParameters {
    let mut opus = OpusParameters::default();
    for parameter in values_of_format(media, "fmtp", payload_type).flat_map(|fmtp| fmtp.split(';')) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim();
        let number = |least: u32, most: u32| u32::from_str(value).ok().map(|number| number.clamp(least, most));
        match name.trim().to_ascii_lowercase().as_str() {
            "maxaveragebitrate" => opus.max_average_bitrate = number(6_000, 510_000),
            "maxplaybackrate" => opus.max_playback_rate_hz = number(8_000, 48_000),
            "sprop-maxcapturerate" => opus.max_capture_rate_hz = number(8_000, 48_000),
            "minptime" => opus.min_ptime_ms = number(3, 120),
            "useinbandfec" => opus.use_inband_fec = value == "1",
            "usedtx" => opus.use_dtx = value == "1",
            "stereo" => opus.stereo = value == "1",
            _ => {}
        }
    }
    opus
}
