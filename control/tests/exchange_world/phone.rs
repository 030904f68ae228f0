//! Phones and the servers of trunks: what they offer, what they do with calls, and what they have heard.

use super::*;

/// What a phone or trunk does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Answer {
        after_ms: u64,
    },
    /// 183 with SDP at once, 200 later.
    Early {
        after_ms: u64,
    },
    Refuse {
        code: u16,
        after_ms: u64,
    },
    Ring,
    /// 302 at once.
    Redirect {
        to: &'static str,
    },
    /// Hears and says nothing.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfferKind {
    Rtp,
    Sdes,
    Browser,
    Lite,
}

/// What a caller offers.
pub(crate) struct Offer {
    pub(crate) kind: OfferKind,
    pub(crate) sdp: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Offer {
    pub(crate) fn rtp(codecs: &[Codec]) -> Offer {
        let mut numbers = String::new();
        let mut maps = String::new();
        for codec in codecs {
            let (number, map) = match codec {
                Codec::Opus => (111, "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\n"),
                Codec::Pcmu => (0, "a=rtpmap:0 PCMU/8000\r\n"),
                _ => (8, "a=rtpmap:8 PCMA/8000\r\n"),
            };
            numbers = format!("{numbers} {number}");
            maps.push_str(map);
        }
        let sdp = format!(
            "v=0\r\no=- 7 1 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\nt=0 0\r\n\
             m=audio 4000 RTP/AVP{numbers} 101\r\n{maps}a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na=sendrecv\r\n"
        );
        Offer { kind: OfferKind::Rtp, sdp, headers: Vec::new() }
    }

    pub(crate) fn sdes() -> Offer {
        let crypto = "a=crypto:7 AES_CM_128_HMAC_SHA1_80 inline:cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN\r\n";
        let rtp = Offer::rtp(&[Codec::Opus]);
        let sdp = rtp.sdp.replace("RTP/AVP", "RTP/SAVP").replace("a=ptime:20\r\n", crypto);
        Offer { kind: OfferKind::Sdes, sdp, ..rtp }
    }

    pub(crate) fn browser() -> Offer {
        let rtp = Offer::rtp(&[Codec::Opus]);
        let webrtc = format!(
            "a=mid:0\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:{}\r\na=setup:actpass\r\na=fingerprint:sha-256 {}\r\n",
            "p".repeat(24),
            ["AB"; 32].join(":")
        );
        let sdp = rtp.sdp.replace("RTP/AVP", "UDP/TLS/RTP/SAVPF").replace("a=ptime:20\r\n", &webrtc);
        Offer { kind: OfferKind::Browser, sdp, ..rtp }
    }

    pub(crate) fn lite() -> Offer {
        let browser = Offer::browser();
        let candidate = "a=mid:0\r\na=candidate:1 1 udp 2130706431 203.0.113.49 3480 typ host\r\n";
        let sdp = browser.sdp.replace("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n").replace("a=mid:0\r\n", candidate);
        Offer { kind: OfferKind::Lite, sdp, ..browser }
    }

    pub(crate) fn with(mut self, fmtp: &str) -> Offer {
        self.sdp = self.sdp.replace("a=fmtp:111 useinbandfec=1", &format!("a=fmtp:111 {fmtp}"));
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Offer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A call that a phone placed.
#[derive(Default)]
pub(crate) struct Placed {
    pub(crate) early: Option<String>,
    pub(crate) answer: Option<String>,
    /// To re-INVITEs, `None` where one was refused.
    pub(crate) reanswers: Vec<Option<String>>,
    pub(crate) end: Option<SipEnd>,
}

/// A call that came to a phone.
pub(crate) struct Came {
    pub(crate) call: SipCallId,
    pub(crate) sdp: String,
    pub(crate) from: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) referred_by: Option<String>,
    pub(crate) act_at: Instant,
    pub(crate) answered: bool,
    pub(crate) end: Option<SipEnd>,
}

/// A phone, or a trunk's server.
pub(crate) struct Phone {
    pub(crate) agent: SipAgent,
    pub(crate) deadline: Instant,
    pub(crate) does: Does,
    /// fmtp of Opus in its answers.
    pub(crate) wishes: Option<&'static str>,
    /// The only codec that it has.
    pub(crate) takes: Option<Codec>,
    pub(crate) placed: BTreeMap<SipCallId, Placed>,
    pub(crate) calls: Vec<Came>,
    /// Re-INVITEs that came.
    pub(crate) offers_seen: usize,
    /// Their offers.
    pub(crate) offers: Vec<String>,
    /// Answers to its own re-INVITEs.
    pub(crate) answers_seen: Vec<String>,
    pub(crate) transfers: Vec<(u16, bool)>,
    pub(crate) port: u16,
}

impl Phone {
    pub(crate) fn live(&self) -> usize {
        self.calls.iter().filter(|call| call.answered && call.end.is_none()).count()
    }

    pub(crate) fn ends(&self) -> Vec<SipEnd> {
        self.calls.iter().filter_map(|call| call.end.clone()).collect()
    }

    pub(crate) fn invite(&self) -> &Came {
        self.calls.last().expect("nobody has called")
    }
}

pub(crate) fn hear(phone: &mut Phone, now: Instant, event: SipEvent) {
    match event {
        SipEvent::Incoming { call, from, sdp, headers, arrival, .. } => {
            let referred_by = arrival.request.header("Referred-By").map(str::to_owned);
            let (after_ms, sdp) = (after_ms(phone.does), sdp.expect("the gateway offers"));
            let has = |codec| sdp::parse(&sdp).unwrap().codecs.iter().any(|format| format.codec == codec);
            match phone.does {
                Does::Redirect { to } => {
                    let contacts = vec![to.to_owned()];
                    phone.agent.refuse(now, call, &Refusal { contacts, ..Refusal::code(302) });
                }
                _ if phone.takes.is_some_and(|codec| !has(codec)) => phone.agent.reject(now, call, 488),
                Does::Early { .. } => {
                    let answer = answer_to(&sdp, phone.port, phone.wishes, phone.takes);
                    phone.agent.ring(now, call, Some(&answer));
                }
                _ => phone.agent.ring(now, call, None),
            }
            let act_at = after_ms.map_or(Instant::NEVER, |after_ms| now.plus_millis(after_ms));
            phone.calls.push(Came { call, sdp, from, headers, referred_by, act_at, answered: false, end: None });
        }
        SipEvent::Provisional { call, sdp, .. } => {
            if let Some(placed) = phone.placed.get_mut(&call) {
                placed.early = sdp.or(placed.early.take());
            }
        }
        SipEvent::Answered { call, sdp, .. } => phone.placed.get_mut(&call).unwrap().answer = Some(sdp),
        SipEvent::Ended { call, end } => {
            let came = phone.calls.iter_mut().find(|came| came.call == call);
            let known = match came {
                Some(came) => {
                    came.act_at = Instant::NEVER;
                    &mut came.end
                }
                None => &mut phone.placed.get_mut(&call).unwrap().end,
            };
            assert!(known.is_none(), "ended twice: {known:?}, then {end:?}");
            *known = Some(end);
        }
        SipEvent::ReInvite { call, sdp } => {
            phone.offers_seen += 1;
            phone.offers.extend(sdp.clone());
            let answer = sdp.filter(|_| !matches!(phone.does, Does::Refuse { .. }));
            let answer = answer.map(|sdp| answer_to(&sdp, phone.port, phone.wishes, phone.takes));
            phone.agent.answer_reinvite(now, call, answer.as_deref());
        }
        SipEvent::ReInviteAnswered { call, sdp } => {
            phone.answers_seen.push(sdp.clone());
            if let Some(placed) = phone.placed.get_mut(&call) {
                placed.reanswers.push(Some(sdp));
            }
        }
        SipEvent::ReInviteRefused { call, .. } => {
            if let Some(placed) = phone.placed.get_mut(&call) {
                placed.reanswers.push(None);
            }
        }
        SipEvent::TransferProgress { code, over, .. } => phone.transfers.push((code, over)),
        _ => {}
    }
}

pub(crate) fn after_ms(does: Does) -> Option<u64> {
    match does {
        Does::Answer { after_ms } | Does::Early { after_ms } | Does::Refuse { after_ms, .. } => Some(after_ms),
        Does::Ring | Does::Redirect { .. } | Does::Dead => None,
    }
}

pub(crate) fn act(phone: &mut Phone, now: Instant) {
    for came in phone.calls.iter_mut().filter(|came| came.act_at <= now) {
        came.act_at = Instant::NEVER;
        match phone.does {
            Does::Refuse { code, .. } => phone.agent.reject(now, came.call, code),
            _ => {
                came.answered = true;
                phone.agent.accept(now, came.call, &answer_to(&came.sdp, phone.port, phone.wishes, phone.takes));
            }
        }
    }
}

/// What a phone answers to an offer: the first codec, whatever the kind.
pub(crate) fn answer_to(offer: &str, port: u16, wishes: Option<&str>, takes: Option<Codec>) -> String {
    let offer = sdp::parse(offer).unwrap();
    let codec = *offer.codecs.iter().find(|format| takes.is_none_or(|codec| format.codec == codec)).unwrap();
    let here: IpAddr = "198.51.100.50".parse().unwrap();
    // Others, where the offer has others than before.
    let ufrag = format!("phone{}", offer.ice.as_ref().map_or("", |ice| &ice.ufrag));
    let text = match offer.fingerprint {
        Some(_) => sdp::write_webrtc_answer(
            &offer,
            &WebrtcLocal {
                addresses: vec![here],
                port,
                ufrag,
                pwd: "q".repeat(24),
                lite: false,
                fingerprint: [9; 32],
                setup: Setup::Active,
                ssrc: 5,
                codec,
                telephone_event: offer.telephone_events.first().copied(),
                direction: Direction::SendRecv,
                session_id: 5,
                session_version: 1,
            },
        ),
        None => {
            let mut sdes = Sdes::new(&SDES_SUITES, Random::from_test_seed(u64::from(port)));
            let crypto = sdes.read_offer(&offer).map(|(line, _)| vec![line]).unwrap_or_default();
            let local = RtpLocal {
                address: here,
                port,
                profile: offer.profile,
                rtcp_mux: false,
                crypto,
                codecs: vec![CodecFormat { opus: Default::default(), ..codec }],
                telephone_events: offer.telephone_events.clone(),
                direction: Direction::SendRecv,
                session_id: 5,
                session_version: 1,
            };
            sdp::write_rtp_answer(&offer, &local)
        }
    };
    match wishes {
        Some(wishes) => text.replace(
            &format!("a=rtpmap:{} opus/48000/2\r\n", codec.payload_type),
            &format!("a=rtpmap:{0} opus/48000/2\r\na=fmtp:{0} {wishes}\r\n", codec.payload_type),
        ),
        None => text,
    }
}
