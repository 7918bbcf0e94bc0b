//! `get --watch`: shows the pushed activity, as KEDA's `external-push` trigger receives it.

use std::time::Duration;

use time::OffsetDateTime;
use tonic::{Status, transport::Channel};

use super::failure::Failure;
use crate::{
    command::Exit,
    proto::{ScaledObjectRef, external_scaler_client::ExternalScalerClient},
    terminal::{
        complain, print,
        style::{ColorChoice, Style},
        text::printable,
    },
};

/// KEDA's pause before it opens a stream again. Each error doubles the pause, up to [`LONGEST_PAUSE`]
/// (pkg/scalers/external_scaler.go).
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Prints each change of the activity until Ctrl-C.
pub(super) async fn until_interrupted(
    client: &mut ExternalScalerClient<Channel>,
    reference: &ScaledObjectRef,
    is_secure: bool,
    colors: ColorChoice,
) -> Exit {
    print("\nStreamIsActive, as it changes; Ctrl-C ends\n\n");
    tokio::select! {
        result = tokio::signal::ctrl_c() => match result {
            Ok(()) => Exit::Success,
            Err(error) => {
                complain(&format!("cannot listen for signals: {error}"));
                Exit::Failure
            }
        },
        never = watch(client, reference, is_secure, colors) => never,
    }
}

async fn watch(
    client: &mut ExternalScalerClient<Channel>,
    reference: &ScaledObjectRef,
    is_secure: bool,
    colors: ColorChoice,
) -> Exit {
    let mut shown = None;
    let mut pause = SHORTEST_PAUSE;
    loop {
        let ended = one_stream(client, reference, &mut shown, colors).await;
        let (style, text) = match &ended {
            Ok(()) => {
                pause = SHORTEST_PAUSE;
                (Style::Quiet, format!("the scaler ended the stream; opening it again in {} s", pause.as_secs()))
            }
            Err(status) => {
                let Failure { code, message, .. } = Failure::from_status("StreamIsActive", status, is_secure);
                (Style::Bad, format!("{code}: {message}; opening it again in {} s", pause.as_secs()))
            }
        };
        event(style, &text, colors);
        tokio::time::sleep(pause).await;
        if ended.is_err() {
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// Shows the changes that one stream brings. The scaler repeats its state every 30 s; a repetition is not shown.
async fn one_stream(
    client: &mut ExternalScalerClient<Channel>,
    reference: &ScaledObjectRef,
    shown: &mut Option<bool>,
    colors: ColorChoice,
) -> Result<(), Status> {
    let mut updates = client.stream_is_active(reference.clone()).await?.into_inner();
    while let Some(update) = updates.message().await? {
        if shown.replace(update.result) != Some(update.result) {
            let (style, text) = if update.result { (Style::Good, "active") } else { (Style::Warning, "inactive") };
            event(style, text, colors);
        }
    }
    Ok(())
}

fn event(style: Style, text: &str, colors: ColorChoice) {
    let now = OffsetDateTime::now_utc();
    let time =
        format!("{}T{:02}:{:02}:{:02}.{:03}Z", now.date(), now.hour(), now.minute(), now.second(), now.millisecond());
    print(&format!("{}  {}\n", colors.paint(Style::Quiet, &time), colors.paint(style, &printable(text))));
}
