use super::*;
use crate::limits::{REMOTE_CANDIDATES_MAX, SDP_BYTES_MAX};
use proptest::prelude::*;

const FINGERPRINT: &str =
    "AE:89:C4:6B:2C:5F:E3:29:01:D4:8C:F2:52:A8:9D:F2:D9:F4:8C:5E:78:50:A8:ED:58:C7:5F:A5:25:92:14:0B";
const WHATSAPP: &str = include_str!("../../tests/data/whatsapp_sdp/connect-uic.sdp");

/// What a fixture must read as.
struct Expected {
    name: &'static str,
    text: &'static str,
    origin: (&'static str, &'static str),
    mid: &'static str,
    lite: bool,
    ufrag: &'static str,
    pwd: &'static str,
    candidates: &'static [(&'static str, u32)],
    setup: Setup,
    fingerprint_starts: [u8; 3],
    codecs: &'static [(Codec, u8)],
    events: &'static [(u8, u32)],
    ssrc: u32,
    address: Option<&'static str>,
    ptime_ms: Option<u32>,
}

macro_rules! fixture {
    ($path:literal) => {
        include_str!(concat!("../../tests/data/", $path))
    };
}

const BROWSER_CODECS: &[(Codec, u8)] = &[(Codec::Opus, 111), (Codec::G722, 9), (Codec::Pcmu, 0), (Codec::Pcma, 8)];
const OPUS_111: &[(Codec, u8)] = &[(Codec::Opus, 111)];
const EVENT_126: &[(u8, u32)] = &[(126, 8_000)];
const BOTH_EVENTS: &[(u8, u32)] = &[(110, 48_000), (126, 8_000)];

fn dtls_fixtures() -> Vec<Expected> {
    vec![
        Expected {
            name: "aiortc answer",
            text: fixture!("sdp/aiortc-1.16-answer.sdp"),
            origin: ("4004346418", "4004346418"),
            mid: "0",
            lite: false,
            ufrag: "HBF3",
            pwd: "Tp5I4mcu3sEOM7KS78bS24",
            candidates: &[("10.77.0.2:58853", 2130706431)],
            setup: Setup::Active,
            fingerprint_starts: [0xE0, 0x64, 0xBD],
            codecs: BROWSER_CODECS,
            events: &[],
            ssrc: 3126893824,
            address: Some("10.77.0.2:58853"),
            ptime_ms: None,
        },
        Expected {
            name: "aiortc offer",
            text: fixture!("sdp/aiortc-1.16-offer.sdp"),
            origin: ("4004346431", "4004346431"),
            mid: "0",
            lite: false,
            ufrag: "BNax",
            pwd: "9j6qMkLE92oWOX3nRAsFeF",
            candidates: &[("10.77.0.2:58186", 2130706431)],
            setup: Setup::ActPass,
            fingerprint_starts: [0x44, 0xD9, 0x8C],
            codecs: &[(Codec::Opus, 96), (Codec::G722, 9), (Codec::Pcmu, 0), (Codec::Pcma, 8)],
            events: &[],
            ssrc: 1301738331,
            address: Some("10.77.0.2:58186"),
            ptime_ms: None,
        },
        Expected {
            name: "chromium answer",
            text: fixture!("sdp/chromium-156-answer-to-aiortc.sdp"),
            origin: ("6564172288771884291", "2"),
            mid: "0",
            lite: false,
            ufrag: "A5MZ",
            pwd: "wXd1p8bbqxqihesIlqB3lR4G",
            candidates: &[("10.77.0.1:51296", 2122260223)],
            setup: Setup::Active,
            fingerprint_starts: [0x88, 0xC8, 0xFB],
            codecs: &[(Codec::Opus, 96), (Codec::G722, 9), (Codec::Pcmu, 0), (Codec::Pcma, 8)],
            events: &[],
            ssrc: 3125104957,
            address: Some("10.77.0.1:51296"),
            ptime_ms: None,
        },
        Expected {
            name: "chromium offer, opus only",
            text: fixture!("sdp/chromium-156-offer-opus-only.sdp"),
            origin: ("5487690362043669105", "2"),
            mid: "0",
            lite: false,
            ufrag: "0xmX",
            pwd: "cTw/HNXTOArdjHg/cjOApqM+",
            candidates: &[("10.77.0.1:43201", 2122260223)],
            setup: Setup::ActPass,
            fingerprint_starts: [0x09, 0x8C, 0x75],
            codecs: OPUS_111,
            events: EVENT_126,
            ssrc: 1808208919,
            address: Some("10.77.0.1:43201"),
            ptime_ms: None,
        },
        Expected {
            name: "chromium offer",
            text: fixture!("sdp/chromium-156-offer.sdp"),
            origin: ("7083737696268491953", "2"),
            mid: "0",
            lite: false,
            ufrag: "rBBn",
            pwd: "hYP4Rf5qnP2aVeUjX0KDFQ+n",
            candidates: &[("10.77.0.1:54759", 2122260223)],
            setup: Setup::ActPass,
            fingerprint_starts: [0xC9, 0x65, 0x07],
            codecs: BROWSER_CODECS,
            events: BOTH_EVENTS,
            ssrc: 151081528,
            address: Some("10.77.0.1:54759"),
            ptime_ms: None,
        },
        Expected {
            name: "firefox offer",
            text: fixture!("sdp/firefox-esr-153-offer.sdp"),
            origin: ("163000027168682597", "0"),
            mid: "0",
            lite: false,
            ufrag: "859e473d",
            pwd: "038b030c60a15c184cf209e44e872533",
            candidates: &[("10.77.0.1:36484", 2122252543)],
            setup: Setup::ActPass,
            fingerprint_starts: [0xC5, 0x32, 0x7E],
            codecs: &[(Codec::Opus, 109), (Codec::G722, 9), (Codec::Pcmu, 0), (Codec::Pcma, 8)],
            events: &[(101, 8_000)],
            ssrc: 2560953586,
            address: Some("10.77.0.1:36484"),
            ptime_ms: None,
        },
        Expected {
            name: "jssip answer",
            text: fixture!("sdp/jssip-3.13-chromium-156-answer.sdp"),
            origin: ("7453240925150379002", "2"),
            mid: "0",
            lite: false,
            ufrag: "NvSm",
            pwd: "fIv77Xr02N6emOLmkhcDo+CV",
            candidates: &[("10.77.0.2:51701", 2122260223)],
            setup: Setup::Active,
            fingerprint_starts: [0x63, 0x01, 0xAC],
            codecs: BROWSER_CODECS,
            events: BOTH_EVENTS,
            ssrc: 3244619721,
            address: Some("10.77.0.2:51701"),
            ptime_ms: None,
        },
        Expected {
            name: "sip.js offer",
            text: fixture!("sdp/sipjs-0.21-chromium-156-invite-offer.sdp"),
            origin: ("7376657139191482754", "2"),
            mid: "0",
            lite: false,
            ufrag: "Eu18",
            pwd: "U4eBTSKhTbIbHpYMWuyK0XBZ",
            candidates: &[("10.77.0.1:57357", 2122260223)],
            setup: Setup::ActPass,
            fingerprint_starts: [0x35, 0xB2, 0x93],
            codecs: BROWSER_CODECS,
            events: BOTH_EVENTS,
            ssrc: 880197242,
            address: Some("10.77.0.1:57357"),
            ptime_ms: None,
        },
        Expected {
            name: "whatsapp offer",
            text: WHATSAPP,
            origin: ("1767225600412", "2"),
            mid: "audio",
            lite: true,
            ufrag: "QmZ7rT2xLp9VkDsA",
            pwd: "n4Fq+1zR8w/Kp0aYt3LdXg==",
            candidates: &[("203.0.113.49:3480", 2122260223), ("[2001:db8:f36b:131:face:b00c:0:699c]:3480", 2122262783)],
            setup: Setup::ActPass,
            fingerprint_starts: [0xAE, 0x89, 0xC4],
            codecs: OPUS_111,
            events: EVENT_126,
            ssrc: 2718281828,
            address: Some("203.0.113.49:3480"),
            ptime_ms: Some(20),
        },
        Expected {
            name: "whatsapp offer with g711",
            text: fixture!("whatsapp_sdp/connect-uic-g711.sdp"),
            origin: ("1767225608001", "2"),
            mid: "audio",
            lite: true,
            ufrag: "Bb4nGh7tQwEr2Zx9",
            pwd: "p0OiU7yT5rE3wQ1aS2dFgA==",
            candidates: &[("203.0.113.49:3478", 2122260223), ("[2001:db8:f36b:131:face:b00c:0:699c]:3478", 2122262783)],
            setup: Setup::ActPass,
            fingerprint_starts: [0x78, 0xAC, 0x88],
            codecs: &[(Codec::Opus, 111), (Codec::Pcmu, 0), (Codec::Pcma, 8)],
            events: EVENT_126,
            ssrc: 777888999,
            address: Some("203.0.113.49:3478"),
            ptime_ms: Some(20),
        },
        Expected {
            name: "whatsapp offer, documented shape",
            text: fixture!("whatsapp_sdp/connect-uic-username.sdp"),
            origin: ("5150000000000000002", "2"),
            mid: "audio",
            lite: true,
            ufrag: "8w3kZp2QnYbL/2",
            pwd: "T7xVd0Kc3RmZ9sQpL1uWbE5yHfJgN2aX",
            candidates: &[
                ("198.51.100.60:40012", 2113937151),
                ("[2001:db8:f211:cf:face:b00c:0:6443]:40012", 2113939711),
            ],
            setup: Setup::ActPass,
            fingerprint_starts: [0x24, 0x8E, 0x15],
            codecs: OPUS_111,
            events: EVENT_126,
            ssrc: 1618033988,
            address: Some("198.51.100.60:40012"),
            ptime_ms: None,
        },
        whatsapp_answer("whatsapp answer", fixture!("whatsapp_sdp/connect-bic-answer.sdp"), Setup::Active),
        whatsapp_answer(
            "whatsapp passive answer",
            fixture!("whatsapp_sdp/connect-bic-answer-passive.sdp"),
            Setup::Passive,
        ),
    ]
}

fn whatsapp_answer(name: &'static str, text: &'static str, setup: Setup) -> Expected {
    Expected {
        name,
        text,
        origin: ("5150000000000000001", "2"),
        mid: "0",
        lite: true,
        ufrag: "X4tGb9QwHnPz/8",
        pwd: "Rk3vN8yWqZ1sLd6TfUbXc0PmJhG5eA2/",
        candidates: &[("203.0.113.130:3482", 2113937151), ("[2001:db8:f211:d1:face:b00c:0:699c]:3482", 2113939711)],
        setup,
        fingerprint_starts: [0x43, 0x83, 0x96],
        codecs: OPUS_111,
        events: EVENT_126,
        ssrc: 1414213562,
        address: Some("203.0.113.130:3482"),
        ptime_ms: None,
    }
}

fn local() -> WebrtcLocal {
    WebrtcLocal {
        addresses: vec!["2001:db8::10".parse().unwrap(), "192.0.2.10".parse().unwrap()],
        port: 40_000,
        ufrag: "kP2sAbCd".to_owned(),
        pwd: "7fJSbV2N5qWiA5QiDKwK3vuh".to_owned(),
        lite: false,
        fingerprint: std::array::from_fn(|index| index as u8 * 7),
        setup: Setup::Active,
        ssrc: 330_833_028,
        codec: CodecFormat { codec: Codec::Opus, payload_type: 111, opus: OpusParameters::default() },
        telephone_event: None,
        direction: Direction::SendRecv,
        session_id: 3_969_670_312,
        session_version: 1,
    }
}

fn rtp_local() -> RtpLocal {
    RtpLocal {
        address: "203.0.113.10".parse().unwrap(),
        port: 30_000,
        profile: Profile::RtpAvp,
        rtcp_mux: false,
        crypto: Vec::new(),
        codecs: vec![CodecFormat { codec: Codec::Pcmu, payload_type: 0, opus: OpusParameters::default() }],
        telephone_events: vec![TelephoneEventFormat { payload_type: 101, clock_rate_hz: 8_000 }],
        direction: Direction::SendRecv,
        session_id: 1,
        session_version: 1,
    }
}

/// A plain offer with `body` after its `m=` line.
fn rtp_text(media: &str, body: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm={media}\r\n{body}")
}

#[test]
fn every_dtls_fixture_is_read_in_full() {
    for expected in dtls_fixtures() {
        let name = expected.name;
        let read = parse(expected.text).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(read.origin, (expected.origin.0.to_owned(), expected.origin.1.to_owned()), "{name}");
        assert_eq!(read.profile, Profile::UdpTlsRtpSavpf, "{name}");
        assert_eq!(read.mid.as_deref(), Some(expected.mid), "{name}");
        assert!(read.bundled && read.rtcp_mux, "{name}");
        assert_eq!(read.direction, Direction::SendRecv, "{name}");
        let ice = read.ice.unwrap();
        assert_eq!((ice.ufrag.as_str(), ice.pwd.as_str()), (expected.ufrag, expected.pwd), "{name}");
        assert_eq!(ice.lite, expected.lite, "{name}");
        let candidates: Vec<_> = ice.candidates.iter().map(|known| (known.address, known.priority)).collect();
        let expected_candidates: Vec<_> =
            expected.candidates.iter().map(|(address, priority)| (address.parse().unwrap(), *priority)).collect();
        assert_eq!(candidates, expected_candidates, "{name}");
        assert_eq!(read.setup, Some(expected.setup), "{name}");
        assert_eq!(read.fingerprint.unwrap()[..3], expected.fingerprint_starts, "{name}");
        let codecs: Vec<_> = read.codecs.iter().map(|format| (format.codec, format.payload_type)).collect();
        assert_eq!(codecs, expected.codecs, "{name}");
        let events: Vec<_> =
            read.telephone_events.iter().map(|event| (event.payload_type, event.clock_rate_hz)).collect();
        assert_eq!(events, expected.events, "{name}");
        assert_eq!(read.ssrc, Some(expected.ssrc), "{name}");
        assert_eq!(read.address, expected.address.map(|address| address.parse().unwrap()), "{name}");
        assert_eq!((read.ptime_ms, read.max_ptime_ms), (expected.ptime_ms, expected.ptime_ms), "{name}");
        assert!(read.crypto.is_empty() && read.rejected.is_empty() && read.section_index == 0, "{name}");
    }
}

#[test]
fn answer_to_every_dtls_fixture_reads_back_right() {
    for expected in dtls_fixtures() {
        let name = expected.name;
        let offer = parse(expected.text).unwrap();
        let (codec, telephone_event) = negotiate(&offer, &[Codec::Opus]).unwrap();
        let local = WebrtcLocal { codec, telephone_event, ..local() };
        let text = write_webrtc_answer(&offer, &local);
        assert_eq!(text, write_webrtc_answer(&offer, &local), "the same bytes in pre_accept and accept");
        assert!(!text.contains("ice-lite"), "{name}");
        assert_eq!(text.matches("a=fingerprint:").count(), 1, "{name}");
        assert_eq!(text.matches("a=ssrc:").count(), 1, "{name}");
        assert_eq!(text.matches("m=").count(), 1, "{name}");
        let answer = parse(&text).unwrap();
        assert_eq!((answer.mid, answer.bundled), (offer.mid, offer.bundled), "{name}");
        assert_eq!(answer.codecs, [codec], "{name}");
        assert_eq!(answer.telephone_events, Vec::from_iter(telephone_event), "{name}");
        assert_eq!(answer.setup, Some(Setup::Active), "{name}");
        assert_eq!(answer.fingerprint, Some(local.fingerprint), "{name}");
        assert_eq!((answer.ptime_ms, answer.max_ptime_ms), (Some(20), Some(20)), "{name}");
        assert_eq!(answer.ssrc, Some(local.ssrc), "{name}");
    }
}

#[test]
fn answer_to_whatsapp_is_the_documented_text() {
    let offer = parse(WHATSAPP).unwrap();
    let (mut codec, telephone_event) = negotiate(&offer, &[Codec::Opus]).unwrap();
    codec.opus = OpusParameters {
        max_average_bitrate: Some(20_000),
        max_playback_rate_hz: Some(16_000),
        max_capture_rate_hz: Some(16_000),
        min_ptime_ms: Some(20),
        use_inband_fec: true,
        ..OpusParameters::default()
    };
    assert_eq!(codec, offer.codecs[0]); // our wishes equal WhatsApp's
    let local = WebrtcLocal {
        addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        fingerprint: offer.fingerprint.unwrap(),
        codec,
        telephone_event,
        ..local()
    };
    let lines = [
        "v=0",
        "o=- 3969670312 1 IN IP4 192.0.2.10",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE audio",
        "a=msid-semantic: WMS tandem",
        "m=audio 40000 UDP/TLS/RTP/SAVPF 111 126",
        "c=IN IP4 192.0.2.10",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=candidate:1 1 udp 2130706431 192.0.2.10 40000 typ host",
        "a=candidate:2 1 udp 2130706175 2001:db8::10 40000 typ host",
        "a=end-of-candidates",
        "a=ice-ufrag:kP2sAbCd",
        "a=ice-pwd:7fJSbV2N5qWiA5QiDKwK3vuh",
        &format!("a=fingerprint:sha-256 {FINGERPRINT}"),
        "a=setup:active",
        "a=mid:audio",
        "a=sendrecv",
        "a=msid:tandem audio0",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=20;useinbandfec=1;maxaveragebitrate=20000;maxplaybackrate=16000;sprop-maxcapturerate=16000",
        "a=rtpmap:126 telephone-event/8000",
        "a=fmtp:126 0-16",
        "a=maxptime:20",
        "a=ptime:20",
        "a=ssrc:330833028 cname:tandem",
        "",
    ];
    assert_eq!(write_webrtc_answer(&offer, &local), lines.join("\r\n"));
}

#[test]
fn sdes_fixture_keeps_its_crypto_line() {
    let read = parse(fixture!("whatsapp_sdp/connect-uic-sdes.sdp")).unwrap();
    assert_eq!(read.profile, Profile::RtpSavp);
    assert_eq!(read.crypto, ["1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"]);
    assert_eq!((read.ice, read.fingerprint, read.setup), (None, None, None));
    assert!(read.rtcp_mux);
    assert_eq!(read.address, Some("203.0.113.130:3480".parse().unwrap()));
}

#[test]
fn firefox_fmtp_is_read() {
    let read = parse(fixture!("sdp/firefox-esr-153-offer.sdp")).unwrap();
    let opus = read.codecs[0].opus;
    assert_eq!(opus.max_playback_rate_hz, Some(48_000));
    assert!(opus.stereo && opus.use_inband_fec && !opus.use_dtx);
    assert_eq!(read.rtcp_address, Some("10.77.0.1:43283".parse().unwrap()));
}

#[test]
fn twilio_shaped_answer_is_read() {
    let text = "v=0\no=root 1311022221 1311022221 IN IP4 172.18.165.214\ns=Twilio Media Gateway\nc=IN IP4 168.86.138.121\n\
        t=0 0\nm=audio 12692 RTP/AVP 0 8 101\na=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\na=ptime:20\n\
        a=maxptime:20\na=sendrecv\n";
    let read = parse(text).unwrap();
    assert_eq!(read.address, Some("168.86.138.121:12692".parse().unwrap()));
    assert_eq!(read.codecs.iter().map(|format| format.codec).collect::<Vec<_>>(), [Codec::Pcmu, Codec::Pcma]);
    assert_eq!(read.telephone_events, [TelephoneEventFormat { payload_type: 101, clock_rate_hz: 8_000 }]);
    assert_eq!(read.max_ptime_ms, Some(20));
}

#[test]
fn session_level_ice_fingerprint_setup_and_direction_count_for_the_section() {
    let text = format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=\r\nt=0 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901==\r\n\
         a=fingerprint:SHA-256 {FINGERPRINT}\r\na=setup:passive\r\na=recvonly\r\na=ice-lite\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\n"
    );
    let read = parse(&text).unwrap();
    let ice = read.ice.unwrap();
    assert_eq!(ice.pwd, "0123456789012345678901==");
    assert!(ice.lite && ice.candidates.is_empty());
    assert_eq!(read.fingerprint.unwrap()[31], 0x0B);
    assert_eq!((read.setup, read.direction, read.address), (Some(Setup::Passive), Direction::RecvOnly, None));
}

#[test]
fn strange_lines_that_matter_to_nobody_do_no_harm() {
    let text = "v=0\no=user name with blanks 18446744073709551616999 -1 IN IP4\no=second\nt=\nb=AS\nb=:\nz=x\nr=7d\nk=\ni=\ni=\n\
        no equals sign\n=\nx=\na\nc=IN IP4\nc=IN IP4 192.0.2.7\nc=IN IP4 192.0.2.8\n\
        m=audio  5004  RTP/AVP  0 \nb=TIAS:x\nc=IN IP4 192.0.2.9\nc=IN IP4 192.0.2.99\na=\na=:\na=ptime:\na=ptime:abc\n";
    let read = parse(text).unwrap();
    assert_eq!(read.address, Some("192.0.2.9:5004".parse().unwrap()));
    assert_eq!(read.ptime_ms, None);
    assert_eq!(read.origin, ("name".to_owned(), "with".to_owned()));
}

#[test]
fn refusals_say_how_far_the_best_section_came() {
    assert_eq!(parse(""), Err(SdpError::Malformed));
    assert_eq!(parse("not sdp at all"), Err(SdpError::Malformed));
    assert_eq!(parse("v=1\r\n"), Err(SdpError::Malformed));
    assert_eq!(parse(&rtp_text("audio 70000 RTP/AVP 0", "")), Err(SdpError::Malformed));
    assert_eq!(parse("v=0\r\n"), Err(SdpError::NoAudio));
    assert_eq!(parse(&rtp_text("video 5004 RTP/AVP 0", "")), Err(SdpError::NoAudio));
    assert_eq!(parse(&rtp_text("audio 0 RTP/AVP 0", "")), Err(SdpError::NoAudio));
    assert_eq!(parse(&rtp_text("audio 5004 RTP/XYZ 0", "")), Err(SdpError::UnknownProfile));
    assert_eq!(parse(&rtp_text("audio 5004 RTP/AVP 15 18", "")), Err(SdpError::NoCommonCodec));
    let mixed = rtp_text("audio 5004 RTP/XYZ 0", "m=audio 5006 RTP/AVP 18\r\nm=audio 0 RTP/AVP 0\r\n");
    assert_eq!(parse(&mixed), Err(SdpError::NoCommonCodec));
}

#[test]
fn longest_description_is_read_and_one_byte_more_is_refused() {
    let mut text = rtp_text("audio 5004 RTP/AVP 0", "");
    let padding = SDP_BYTES_MAX - text.len() - "a=\r\n".len();
    text.push_str(&format!("a={}\r\n", "x".repeat(padding)));
    assert_eq!(text.len(), SDP_BYTES_MAX);
    assert!(parse(&text).is_ok());
    text.push('\n');
    assert_eq!(parse(&text), Err(SdpError::TooLong));
}

#[test]
fn first_usable_audio_section_is_used_and_the_others_are_refused_in_their_places() {
    let offer = rtp_text(
        "video 5000 RTP/AVP 96 97",
        "a=mid:v\r\nm=audio 0 RTP/AVP 0\r\nm=audio 5002 RTP/SAVX 0\r\nm=audio 5004 RTP/AVP 8 0\r\na=mid:a\r\n\
         m=audio 5006 RTP/AVP 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\n",
    );
    let read = parse(&offer).unwrap();
    assert_eq!((read.section_index, read.rejected.len()), (3, 5));
    let lines = |text: &str, key: &str| text.lines().filter(|line| line.starts_with(key)).map(str::to_owned).collect();
    let answer = write_rtp_answer(&read, &rtp_local());
    let media: Vec<String> = lines(&answer, "m=");
    assert_eq!(
        media,
        [
            "m=video 0 RTP/AVP 96 97",
            "m=audio 0 RTP/AVP 0",
            "m=audio 0 RTP/SAVX 0",
            "m=audio 30000 RTP/AVP 0 101",
            "m=audio 0 RTP/AVP 0",
            "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        ]
    );
    let mids: Vec<String> = lines(&answer, "a=mid:");
    assert_eq!(mids, ["a=mid:v", "a=mid:a", "a=mid:d"]);
    assert_eq!(parse(&answer).unwrap().section_index, 3);
    let webrtc: Vec<String> = lines(&write_webrtc_answer(&read, &local()), "m=");
    assert_eq!(webrtc.len(), 6);
    assert_eq!(webrtc[3], "m=audio 40000 RTP/AVP 111");
}

#[test]
fn video_beside_whatsapp_shaped_audio_is_refused_and_left_out_of_the_bundle() {
    let text = WHATSAPP.replace("BUNDLE audio", "BUNDLE audio video")
        + "m=video 3480 UDP/TLS/RTP/SAVPF 96\r\na=mid:video\r\na=rtpmap:96 VP8/90000\r\n";
    let answer = write_webrtc_answer(&parse(&text).unwrap(), &local());
    assert!(answer.contains("a=group:BUNDLE audio\r\n"));
    assert!(answer.ends_with("m=video 0 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:video\r\na=inactive\r\n"));
}

#[test]
fn candidates_that_cannot_be_checked_are_left_out_and_the_rest_is_bounded() {
    let mut body = String::from("a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n");
    for unusable in [
        "1 1 udp 1 3f1c7f3e-70f5-4f5b-a1a0-b1fa0c1f7b3e.local 5000 typ host",
        "1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
        "1 2 udp 1 192.0.2.1 5001 typ host",
        "1 1 udp 1 192.0.2.1 0 typ host",
        "1 1 udp 1 0.0.0.0 5000 typ host",
        "1 1 udp 1 224.0.0.1 5000 typ host",
        "1 1 udp 1 fe80::1 5000 typ host",
        "1 1 udp 1 fe80::1%eth0 5000 typ host",
        "1 1 udp 1 2001:db8::1%3 5000 typ host",
        "1 1 udp 4294967296 192.0.2.1 5000 typ host",
        "1 1 udp 1 192.0.2.1",
        "",
    ] {
        body.push_str(&format!("a=candidate:{unusable}\r\n"));
    }
    body.push_str("a=candidate:1 1 UDP 7 ::ffff:192.0.2.1 5000 typ srflx raddr 10.0.0.1 rport 5000\r\n");
    for port in 5_000..5_100 {
        body.push_str(&format!("a=candidate:1 1 udp 1 192.0.2.1 {port} typ host\r\n"));
    }
    let candidates = parse(&rtp_text("audio 5004 RTP/AVP 0", &body)).unwrap().ice.unwrap().candidates;
    assert_eq!(candidates.len(), REMOTE_CANDIDATES_MAX);
    assert_eq!(candidates[0], Candidate { address: "192.0.2.1:5000".parse().unwrap(), priority: 7 });
    assert_eq!(candidates[1].address.port(), 5_001);
}

#[test]
fn only_well_formed_sha_256_fingerprints_are_taken() {
    let read = |lines: &str| parse(&rtp_text("audio 5004 RTP/AVP 0", lines)).unwrap().fingerprint;
    assert_eq!(read("a=fingerprint:sha-512 AA:BB\r\n"), None);
    assert_eq!(read("a=fingerprint:sha-256 AA:BB\r\n"), None);
    assert_eq!(read(&format!("a=fingerprint:sha-256 {FINGERPRINT}:00\r\n")), None);
    assert_eq!(read(&format!("a=fingerprint:sha-256 {}\r\n", FINGERPRINT.replacen("AE", "+E", 1))), None);
    let both = format!("a=fingerprint:sha-384 AA:BB\r\na=fingerprint:SHA-256 {}\r\n", FINGERPRINT.to_lowercase());
    assert_eq!(read(&both).unwrap()[0], 0xAE);
}

#[test]
fn payload_types_follow_rfc_3551_and_5761() {
    let numbers = |media: &str, body: &str| {
        let read = parse(&rtp_text(media, body)).unwrap();
        read.codecs.iter().map(|format| (format.codec, format.payload_type)).collect::<Vec<_>>()
    };
    let opus = |number: u8| format!("a=rtpmap:{number} OPUS/48000/2\r\n");
    assert_eq!(numbers("audio 5004 RTP/AVP 8 0 8 0", ""), [(Codec::Pcma, 8), (Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 0 8", &opus(8)), [(Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 0 18", &opus(18)), [(Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 0 96", ""), [(Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 0 300 -1 x 128", ""), [(Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 72 0", &opus(72)), [(Codec::Opus, 72), (Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 72 0", &(opus(72) + "a=rtcp-mux\r\n")), [(Codec::Pcmu, 0)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 35", &opus(35)), [(Codec::Opus, 35)]);
    assert_eq!(numbers("audio 5004 RTP/AVP 97", "a=rtpmap:97 pcmu/8000/1\r\n"), [(Codec::Pcmu, 97)]);
    let wrong =
        "a=rtpmap:96 opus/16000\r\na=rtpmap:97 PCMU/16000\r\na=rtpmap:98 PCMA/8000/2\r\na=rtpmap:99 opus/48000/1\r\n";
    assert_eq!(parse(&rtp_text("audio 5004 RTP/AVP 96 97 98 99", wrong)), Err(SdpError::NoCommonCodec));
}

#[test]
fn opus_parameters_are_brought_into_range() {
    let fmtp = "a=rtpmap:96 opus/48000/2\r\na=fmtp:96 maxaveragebitrate=1; maxplaybackrate=999999 ;minptime=0;usedtx=1;stereo=2;\
        sprop-maxcapturerate=-1;x;=;cbr=1\r\n";
    let opus = parse(&rtp_text("audio 5004 RTP/AVP 96", fmtp)).unwrap().codecs[0].opus;
    assert_eq!(opus.max_average_bitrate, Some(6_000));
    assert_eq!(opus.max_playback_rate_hz, Some(48_000));
    assert_eq!(opus.min_ptime_ms, Some(3));
    assert_eq!(opus.max_capture_rate_hz, None);
    assert!(opus.use_dtx && !opus.stereo);
}

#[test]
fn hold_is_read_in_both_styles() {
    let read = |body: &str| parse(&rtp_text("audio 5004 RTP/AVP 0", body)).unwrap();
    assert_eq!(read("a=sendonly\r\n").direction, Direction::SendOnly);
    let old = read("c=IN IP4 0.0.0.0\r\n");
    assert_eq!((old.direction, old.address), (Direction::SendOnly, None));
    assert_eq!(read("c=IN IP4 pbx.example.com\r\n").address, None);
    assert_eq!(read("a=inactive\r\n").direction, Direction::Inactive);
}

#[test]
fn rtcp_attribute_takes_its_own_address_or_that_of_the_section() {
    let read = |body: &str| parse(&rtp_text("audio 5004 RTP/AVP 0", body)).unwrap().rtcp_address;
    assert_eq!(read("a=rtcp:5011\r\n"), Some("192.0.2.1:5011".parse().unwrap()));
    assert_eq!(read("a=rtcp:5011 IN IP6 2001:db8::1\r\n"), Some("[2001:db8::1]:5011".parse().unwrap()));
    assert_eq!(read("a=rtcp:9 IN IP4 0.0.0.0\r\n"), None);
    assert_eq!(read("a=rtcp:0\r\n"), None);
    assert_eq!(read("a=rtcp:5011 IN IP4 name.example.com\r\n"), None);
}

#[test]
fn negotiation_follows_our_order_and_pairs_the_event_clock() {
    let offer = parse(fixture!("sdp/chromium-156-offer.sdp")).unwrap();
    let picked = |ours: &[Codec]| {
        negotiate(&offer, ours).map(|(format, event)| (format.payload_type, event.map(|event| event.payload_type)))
    };
    assert_eq!(picked(&[Codec::Opus, Codec::Pcmu]), Some((111, Some(110))));
    assert_eq!(picked(&[Codec::Pcmu, Codec::Opus]), Some((0, Some(126))));
    assert_eq!(picked(&[Codec::Pcma]), Some((8, Some(126))));
    assert_eq!(picked(&[]), None);
    let whatsapp = parse(WHATSAPP).unwrap();
    assert_eq!(negotiate(&whatsapp, &[Codec::Pcmu]), None);
    let (_, event) = negotiate(&whatsapp, &[Codec::Opus]).unwrap();
    assert_eq!(event, Some(TelephoneEventFormat { payload_type: 126, clock_rate_hz: 8_000 }));
    let wide_event_only = rtp_text("audio 5004 RTP/AVP 0 96", "a=rtpmap:96 telephone-event/48000\r\n");
    assert_eq!(negotiate(&parse(&wide_event_only).unwrap(), &[Codec::Pcmu]).unwrap().1, None);
}

#[test]
fn answer_mirrors_the_direction_and_muxes_only_what_was_offered() {
    let text =
        WHATSAPP.replace("a=sendrecv", "a=sendonly").replace("a=rtcp-mux\r\n", "").replace("BUNDLE audio", "BUNDLE x");
    let answer = write_webrtc_answer(&parse(&text).unwrap(), &local());
    assert!(answer.contains("a=recvonly\r\n"));
    assert!(!answer.contains("rtcp-mux") && !answer.contains("BUNDLE"));
}

#[test]
fn lite_is_written_before_the_first_section() {
    let local = WebrtcLocal { lite: true, setup: Setup::Passive, ..local() };
    let answer = write_webrtc_answer(&parse(fixture!("sdp/chromium-156-offer.sdp")).unwrap(), &local);
    assert!(answer.find("a=ice-lite").unwrap() < answer.find("m=audio").unwrap());
    assert_eq!(answer.matches("ice-lite").count(), 1);
}

#[test]
fn rtp_offer_is_the_shape_that_trunks_expect() {
    let expected = "v=0\r\no=- 1 1 IN IP4 203.0.113.10\r\ns=-\r\nc=IN IP4 203.0.113.10\r\nt=0 0\r\n\
        m=audio 30000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n\
        a=ptime:20\r\na=sendrecv\r\n";
    assert_eq!(write_rtp_offer(&rtp_local()), expected);
}

#[test]
fn rtp_answer_repeats_the_profile_and_has_one_codec() {
    let offer = parse(&rtp_text("audio 5004 RTP/AVPF 0 8 101", "a=rtpmap:101 telephone-event/8000\r\n")).unwrap();
    let codecs = vec![offer.codecs[1], offer.codecs[0]];
    let answer = write_rtp_answer(&offer, &RtpLocal { codecs, direction: Direction::RecvOnly, ..rtp_local() });
    assert!(answer.contains("m=audio 30000 RTP/AVPF 8 101\r\n"), "{answer}");
    assert!(answer.contains("a=recvonly\r\n") && !answer.contains("PCMU"));
}

fn opus_parameters() -> impl Strategy<Value = OpusParameters> {
    let rate = || proptest::option::of(8_000_u32..=48_000);
    (
        (proptest::option::of(6_000_u32..=510_000), rate(), rate(), proptest::option::of(3_u32..=120)),
        any::<(bool, bool, bool)>(),
    )
        .prop_map(|((max_average_bitrate, max_playback_rate_hz, max_capture_rate_hz, min_ptime_ms), flags)| {
            OpusParameters {
                max_average_bitrate,
                max_playback_rate_hz,
                max_capture_rate_hz,
                min_ptime_ms,
                use_inband_fec: flags.0,
                use_dtx: flags.1,
                stereo: flags.2,
            }
        })
}

fn webrtc_local() -> impl Strategy<Value = WebrtcLocal> {
    let address = prop_oneof![
        any::<[u8; 3]>().prop_map(|host| IpAddr::from([10, host[0], host[1], host[2]])),
        any::<u16>().prop_map(|host| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host])),
    ];
    let codec = prop_oneof![
        (96_u8..=127, opus_parameters()).prop_map(|(payload_type, opus)| CodecFormat {
            codec: Codec::Opus,
            payload_type,
            opus
        }),
        Just(CodecFormat { codec: Codec::Pcmu, payload_type: 0, opus: OpusParameters::default() }),
        Just(CodecFormat { codec: Codec::Pcma, payload_type: 8, opus: OpusParameters::default() }),
    ];
    let setup = prop_oneof![Just(Setup::ActPass), Just(Setup::Active), Just(Setup::Passive)];
    (
        (proptest::collection::btree_set(address, 1..4), 1_u16.., "[a-zA-Z0-9+/]{4,16}", "[a-zA-Z0-9+/=]{22,40}"),
        (any::<bool>(), any::<[u8; 32]>(), setup, any::<u32>(), codec, any::<bool>(), any::<u64>()),
    )
        .prop_map(
            |((addresses, port, ufrag, pwd), (lite, fingerprint, setup, ssrc, codec, has_event, session_id))| {
                let event = TelephoneEventFormat { payload_type: 35, clock_rate_hz: codec.codec.clock_rate_hz() };
                WebrtcLocal {
                    addresses: addresses.into_iter().collect(),
                    port,
                    ufrag,
                    pwd,
                    lite,
                    fingerprint,
                    setup,
                    ssrc,
                    codec,
                    telephone_event: has_event.then_some(event),
                    direction: Direction::SendRecv,
                    session_id,
                    session_version: 1,
                }
            },
        )
}

proptest! {
    #[test]
    fn written_webrtc_offer_reads_back_the_same(local in webrtc_local(), mid in "[a-z0-9]{1,8}") {
        let read = parse(&write_webrtc_offer(&local, &mid, &[], &[])).unwrap();
        prop_assert_eq!(&read.origin.0, &local.session_id.to_string());
        prop_assert_eq!(read.address, Some(SocketAddr::new(local.addresses[0], local.port)));
        prop_assert_eq!(read.mid, Some(mid));
        prop_assert!(read.bundled && read.rtcp_mux);
        let ice = read.ice.unwrap();
        prop_assert_eq!((&ice.ufrag, &ice.pwd, ice.lite), (&local.ufrag, &local.pwd, local.lite));
        let addresses: Vec<_> = ice.candidates.iter().map(|candidate| candidate.address).collect();
        let expected: Vec<_> = local.addresses.iter().map(|ip| SocketAddr::new(*ip, local.port)).collect();
        prop_assert_eq!(addresses, expected);
        prop_assert!(ice.candidates.is_sorted_by(|a, b| a.priority > b.priority));
        prop_assert_eq!(read.fingerprint, Some(local.fingerprint));
        prop_assert_eq!(read.setup, Some(local.setup));
        prop_assert_eq!(read.ssrc, Some(local.ssrc));
        prop_assert_eq!(read.codecs, vec![local.codec]);
        prop_assert_eq!(read.telephone_events, Vec::from_iter(local.telephone_event));
    }

    #[test]
    fn written_rtp_descriptions_read_back_the_same(port in 1_u16.., version in any::<u64>(), swap in any::<bool>()) {
        let mut codecs = vec![
            CodecFormat { codec: Codec::Pcmu, payload_type: 0, opus: OpusParameters::default() },
            CodecFormat { codec: Codec::Pcma, payload_type: 8, opus: OpusParameters::default() },
        ];
        if swap {
            codecs.reverse();
        }
        let local = RtpLocal { port, session_version: version, codecs, ..rtp_local() };
        let offer = parse(&write_rtp_offer(&local)).unwrap();
        prop_assert_eq!(offer.address, Some(SocketAddr::new(local.address, port)));
        prop_assert_eq!(&offer.codecs, &local.codecs);
        prop_assert_eq!(&offer.origin, &("1".to_owned(), version.to_string()));
        prop_assert_eq!(offer.ptime_ms, Some(20));
        let answer = parse(&write_rtp_answer(&offer, &local)).unwrap();
        prop_assert_eq!(&answer.codecs[..], &local.codecs[..1]);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        let _ = parse(&text);
        let _ = parse(&format!("v=0\r\n{text}"));
    }

    #[test]
    fn damaged_descriptions_never_panic_and_their_answers_parse(
        cuts in proptest::collection::vec((0_usize..2_000, 0_usize..40, "[ -~\\r\\n]{0,12}"), 1..6),
    ) {
        let mut text = WHATSAPP.to_owned();
        for (at, len, insert) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Ok(offer) = parse(&text) {
            let answer = parse(&write_webrtc_answer(&offer, &local())).unwrap();
            prop_assert_eq!(answer.rejected.len(), offer.rejected.len());
            prop_assert_eq!(answer.section_index, offer.section_index);
        }
    }
}
