//! Bodies of webhooks. Their signature is checked before; whoever knows the secret may still send nonsense.

use control::whatsapp::event::{EVENTS_MAX, FlatForm, WebhookEvent, parse};

/// One body, on each of the paths it may come to.
pub fn webhook(data: &[u8]) {
    for form in [FlatForm::Connect, FlatForm::Terminate, FlatForm::ByContent] {
        let Ok(events) = parse(data, form) else { continue };
        assert!(events.len() <= EVENTS_MAX);
        for event in events {
            if let WebhookEvent::Connect(connect) = event {
                let _ = engine::sdp::parse(&connect.sdp);
            }
        }
    }
}
