//! What is said, asked and heard by a bus whose connection comes and goes.

use std::time::Duration;

use ddp_gateway::{
    bus::{Hearing, Link, Meters, Post, Unanswered},
    config::{Environment, from_str, model::Bus},
};

use crate::{
    server::NatsServer,
    support::{PATIENCE, soon, until},
};

const WAIT: Duration = Duration::from_millis(100);

fn bus(server: &NatsServer) -> Bus {
    let text = format!(
        "monolith = \"http://a:1\"\nstreamers = [\"10.0.0.1:1\"]\n[replicas]\nenabled = true\nurl = \"{}\"",
        server.url()
    );
    let loaded = from_str("x", &text, &Environment::empty()).unwrap();
    loaded.config.replicas.unwrap().bus
}

async fn plugged(server: &NatsServer, post: &Post) -> Link {
    let link = Link::connect(&bus(server), &Meters::new("test"))
        .await
        .unwrap();
    post.plug(&link);
    link
}

/// Says it again until it is heard: a subscription takes effect when the server has it.
async fn hears(speaker: &Post, hearing: &mut Hearing, word: &'static str) {
    until("a word to be heard", async || {
        speaker.publish("test.word".to_owned(), word).await;
        let next = tokio::time::timeout(WAIT, hearing.next()).await;
        next.is_ok_and(|message| message.payload == word)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_have_one_answer_or_a_reason() {
    let server = NatsServer::start();
    let (asking, answering) = (Post::default(), Post::default());
    let ask = async |subject: &str| asking.ask(subject.to_owned(), "?", WAIT).await;
    assert_eq!(ask("test.owner").await, Err(Unanswered::Away));
    assert!(!asking.is_up() && asking.own_ip().is_none());
    let _asking_link = plugged(&server, &asking).await;
    let _answering_link = plugged(&server, &answering).await;
    assert!(asking.own_ip().unwrap().is_loopback());
    assert_eq!(ask("test.nobody").await, Err(Unanswered::Unheard));
    let mut questions = answering.hear("test.owner");
    let answered = tokio::spawn(async move {
        // The second one is heard and not answered.
        loop {
            let question = questions.next().await;
            if question.payload == "?" {
                answering.answer(&question, "mine").await;
            }
        }
    });
    until("an answer", async || {
        ask("test.owner").await.as_deref() == Ok(b"mine")
    })
    .await;
    let silence = asking.ask("test.owner".to_owned(), "silence", WAIT).await;
    assert_eq!(silence, Err(Unanswered::Late));
    answered.abort();
}

/// Whoever hears does not notice that there is another connection, or none for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_hearing_outlives_connections() {
    let mut server = NatsServer::start();
    let (speaking, listening) = (Post::default(), Post::default());
    let mut hearing = listening.hear("test.*");
    let speaking_link = plugged(&server, &speaking).await;
    let first = plugged(&server, &listening).await;
    soon("the first", hears(&speaking, &mut hearing, "one")).await;
    listening.unplug();
    drop(first);
    assert!(!listening.is_up());
    let _second = plugged(&server, &listening).await;
    soon("another link", hears(&speaking, &mut hearing, "two")).await;
    server.kill();
    until("the loss to be noticed", async || !speaking.is_up()).await;
    speaking.publish("test.word".to_owned(), "lost").await;
    let late = speaking.ask("test.word".to_owned(), "", PATIENCE).await;
    assert_eq!(late, Err(Unanswered::Away));
    server.start_again();
    soon(
        "the same link again",
        hears(&speaking, &mut hearing, "three"),
    )
    .await;
    drop(speaking_link);
}
