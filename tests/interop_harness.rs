//! The tools of the interop tests, tried on each other: a failing interop test then points at tandem.

mod interop;

use interop::baresip::Baresip;
use interop::browser::Browser;
use interop::{HOST, in_namespace, speech};

#[test]
fn baresip_registers_at_kamailio_and_the_browser_opens_a_page() {
    in_namespace("baresip_registers_at_kamailio_and_the_browser_opens_a_page", async |folder| {
        let wavs = speech::speak(folder, "said", "en-gb", "One two three, this is a test.", &[8_000, 48_000]);
        let _kamailio = interop::kamailio(folder).await;
        let account = format!(
            "<sip:bob@{HOST}>;auth_user=bob;auth_pass=secret;outbound=\"sip:{HOST}:5060;transport=udp\";regint=60;answermode=auto;audio_codecs=PCMU/8000/1"
        );
        let mut bob = Baresip::start(folder, &format!("{HOST}:5070"), &wavs[0], &account).await;
        bob.program.wait_for("1 binding", 10).await;

        let browser = Browser::start(folder, &wavs[1]).await;
        browser.open("data:text/html,<title>x</title>").await;
        assert_eq!(browser.run("return document.title").await, "x");

        let same = speech::score(&wavs[0], &wavs[1], 0.0);
        assert!(same.similarity > 0.98 && same.pesq > 4.0, "the judge does not know the same speech: {same:?}");
    });
}
