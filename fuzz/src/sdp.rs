//! Descriptions: read, and answered when they can be.

use engine::sdp::{
    self, Codec, Direction, RtpLocal, SdpError, Setup, WebrtcLocal, negotiate, write_rtp_answer, write_webrtc_answer,
};
use std::net::{IpAddr, Ipv4Addr};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Reads `data`; an answer to it must be a description too, of the same shape.
pub fn sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let offer = match sdp::parse(&text) {
        Ok(offer) => offer,
        Err(SdpError::TooLong) => return assert!(text.len() > engine::limits::SDP_BYTES_MAX),
        Err(_) => return,
    };
    let Some((codec, telephone_event)) = negotiate(&offer, &[Codec::Opus, Codec::Pcmu, Codec::Pcma]) else { return };
    let rtp = RtpLocal {
        address: ADDRESS,
        port: 10_000,
        profile: offer.profile,
        rtcp_mux: offer.rtcp_mux,
        crypto: engine::sdp::usable_lines(&offer).unwrap_or_default(),
        codecs: vec![codec],
        telephone_events: Vec::from_iter(telephone_event),
        direction: Direction::SendRecv,
        session_id: 1,
        session_version: 1,
    };
    let webrtc = WebrtcLocal {
        addresses: vec![ADDRESS],
        port: 10_002,
        ufrag: "abcd".to_owned(),
        pwd: "abcdefghijklmnopqrstuv".to_owned(),
        lite: true,
        fingerprint: [7; 32],
        setup: Setup::Passive,
        ssrc: 9,
        codec,
        telephone_event,
        direction: Direction::SendRecv,
        session_id: 2,
        session_version: 1,
    };
    for answer in [write_rtp_answer(&offer, &rtp), write_webrtc_answer(&offer, &webrtc)] {
        let read = match sdp::parse(&answer) {
            Ok(read) => read,
            // Mids and other sections are repeated, so that an offer near the limit gives an answer past it.
            Err(SdpError::TooLong) => continue,
            Err(error) => panic!("{error:?} in our answer:\n{answer}"),
        };
        assert_eq!(read.codecs.first().map(|format| format.codec), Some(codec.codec), "{answer}");
        assert_eq!(read.section_index, offer.section_index, "{answer}");
        assert_eq!(read.rejected.len(), offer.rejected.len(), "{answer}");
        assert!(!answer.split("\r\n").any(|line| line.contains(['\r', '\n'])), "a stray line break");
    }
}
