//! A connection that breaks while its session is on the way to another streamer.

use std::time::{Duration, Instant};

use ddp_gateway::demo::streamer::{Mode, Streamer};
use serde_json::{Value, json};

use super::{QUIET, in_phase, lines, phone::Phone, publish, resumes};
use crate::support::{
    deployment::{Deployment, Plan},
    http, settles, until,
};

/// How far the new leg is when the client is lost.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It is open and has not been greeted.
    Greeting,
    /// It is being logged in.
    LoggingIn,
}

struct Scene {
    deployment: Deployment,
    phone: Phone,
    /// Where the session is, and where it is to go.
    from: usize,
    to: usize,
}

impl Scene {
    /// A session whose new leg is at this stage.
    async fn at(stage: Stage, grace: &str) -> Self {
        let deployment = Deployment::of(Plan {
            tables: format!(
                "[websocket]\nresume_grace = \"{grace}\"\n[pool]\nattach_timeout = \"60s\"\n\
                 {QUIET}timeout = \"30s\"\n"
            ),
            ..Plan::default()
        })
        .await;
        let phone = Phone::in_room(lines(&deployment)[0], true, "ann").await;
        let from = usize::from(deployment.streamers[0].sessions() == 0);
        let scene = Self {
            to: 1 - from,
            from,
            deployment,
            phone,
        };
        let mode = match stage {
            Stage::Greeting => Mode::HalfDead,
            Stage::LoggingIn => Mode::Slow(Duration::from_secs(3)),
        };
        scene.to().set_mode(mode).await.unwrap();
        let heard = scene.to().counters().messages_in;
        scene.order_move();
        until("the new leg", async || match stage {
            Stage::Greeting => scene.to().sessions() == 1,
            // Behind `connect`.
            Stage::LoggingIn => scene.to().counters().messages_in >= heard + 2,
        })
        .await;
        assert_eq!(scene.page().await[0]["moving"], true, "{stage:?}");
        scene
    }

    fn order_move(&self) {
        let shared = self.deployment.app.control().shared();
        shared.registry.for_each(|entry| entry.order_move(false));
    }

    fn from(&self) -> &Streamer {
        &self.deployment.streamers[self.from]
    }

    fn to(&self) -> &Streamer {
        &self.deployment.streamers[self.to]
    }

    async fn page(&self) -> Value {
        let page = http::get(self.deployment.admin(), "/sessions").await.json();
        page["sessions"].clone()
    }

    /// Places taken on the two streamers, as the pool counts them.
    async fn places(&self) -> [u64; 2] {
        let page = http::get(self.deployment.admin(), "/streamers")
            .await
            .json();
        let rows = page["pools"][0]["streamers"].as_array().unwrap().clone();
        [self.from(), self.to()].map(|streamer| {
            let id = streamer.address().to_string();
            let mut rows = rows.iter();
            let row = rows.find(|row| row["id"] == id.as_str()).unwrap();
            row["sessions"].as_u64().unwrap()
        })
    }

    /// Waits until nothing is left of the new leg.
    async fn is_undone(&self, places: [u64; 2]) {
        settles("places", places, async || self.places().await).await;
        let shared = self.deployment.app.control().shared();
        settles("logins under way", 0, async || {
            shared.logins.report(Instant::now()).in_flight
        })
        .await;
        // One that hangs does not notice.
        self.to().set_mode(Mode::Normal).await.unwrap();
        settles("sockets of the new leg", 0, async || self.to().sessions()).await;
    }
}

#[tokio::test]
async fn who_is_lost_on_the_way_comes_back_to_where_he_was() {
    for stage in [Stage::Greeting, Stage::LoggingIn] {
        let mut scene = Scene::at(stage, "60s").await;
        let session = scene.phone.session.clone();
        let before = resumes(&scene.deployment, "resumed").await;
        scene.phone.cut();
        settles("detached", 1, async || {
            in_phase(&scene.deployment, "detached").await
        })
        .await;
        scene.is_undone([1, 0]).await;
        assert_eq!(scene.from().sessions(), 1, "{stage:?}");
        assert_ne!(scene.page().await[0]["moving"], true, "{stage:?}");
        publish(&scene.deployment, 1);
        scene.phone.connect().await;
        scene.phone.until_in().await;
        scene.phone.until_event(1).await;
        assert_eq!(scene.phone.session, session, "{stage:?}");
        assert_eq!(resumes(&scene.deployment, "resumed").await, before + 1.0);
        // What did not go on can be begun again, when he has repeated all that he wants to.
        scene.phone.until_answered().await;
        scene.deployment.streamers_in_rotation(2).await;
        scene.order_move();
        let there = json!([scene.to().address().to_string(), false, null]);
        settles("where it is", there, async || {
            let row = &scene.page().await[0];
            if row["moving"] == false && row["move_refused"] == "resuming" {
                scene.order_move();
            }
            json!([row["streamer"], row["moving"], row["move_refused"]])
        })
        .await;
        settles("the old leg", 0, async || scene.from().sessions()).await;
        publish(&scene.deployment, 2);
        scene.phone.until_event(2).await;
        assert_eq!(scene.phone.numbers(), [1, 2], "{stage:?}");
        assert_eq!(scene.places().await, [0, 1], "{stage:?}");
    }
}

#[tokio::test]
async fn who_is_lost_on_the_way_for_good_leaves_nothing_behind() {
    for stage in [Stage::Greeting, Stage::LoggingIn] {
        let mut scene = Scene::at(stage, "0s").await;
        scene.phone.cut();
        scene.deployment.sessions(0).await;
        scene.is_undone([0, 0]).await;
        settles("the old leg", 0, async || scene.from().sessions()).await;
        assert_eq!(scene.page().await, json!([]), "{stage:?}");
        let metrics = scene.deployment.metrics().await;
        assert_eq!(metrics.sum("sessions", &[]), 0.0, "{stage:?}");
    }
}
