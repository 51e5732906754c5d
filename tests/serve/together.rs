//! Several clients at once, and clients that die.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use sllm_gds::serve::events::Event;
use sllm_gds::serve::wire::v1::StatusRequest;

use crate::rig::{Chunk, GPUS, Memory, Rig, load, theirs_at, warm};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_clients_of_one_model_read_it_once() {
    for _ in 0..10 {
        let rig = Rig::new(|settings| settings.chunk_bytes = 4096);
        let bytes = rig.put("m", &[1_000_000]);
        let mut running = Vec::new();
        for id in 0..4 {
            let memory = rig.memory(bytes.len());
            let request = load("m", &format!("r{id}"), GPUS[id % 2], &[&memory], &[(0, 1_000_000, 0, 0)]);
            let mut client = rig.theirs().await;
            running.push((
                memory,
                tokio::spawn(async move {
                    client.load_model_async(warm("m")).await.unwrap();
                    client.load_model_async(request).await.unwrap();
                }),
            ));
        }
        for (memory, load) in running {
            load.await.unwrap();
            assert!(memory.read() == bytes);
        }
        // The fill's own word may come last.
        rig.ours().await.status(StatusRequest {}).await.unwrap();
        loop {
            let (mut read, mut fills) = (0, 0);
            for event in rig.events.lock().unwrap().iter() {
                match event {
                    Event::Loaded { report, .. } => read += report.read_bytes,
                    Event::Warmed { warmed, .. } => (read, fills) = (read + warmed.read_bytes, fills + 1),
                    _ => {}
                }
            }
            if fills > 0 {
                assert!(read <= 1_000_000, "{read} bytes were read of 1,000,000");
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Kills of one run; a thousand by `SLLM_GDS_KILLS=1000`.
const KILLS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_killed_at_any_moment_harms_nobody() {
    let kills = std::env::var("SLLM_GDS_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let rig = Rig::new(|settings| (settings.pool_bytes, settings.chunk_bytes) = (6 << 20, 64 << 10));
    let (bytes, other) = (rig.put("m", &[4_000_000]), rig.put("other", &[3_000_000]));
    let mut rng = fastrand::Rng::new();
    let mut client = rig.theirs().await;
    for kill in 0..kills {
        let theirs = rig.memory(bytes.len());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "together::client", "--ignored", "--nocapture"])
            .env("SLLM_GDS_TEST_CLIENT", format!("{} {} k{kill}", rig.at, theirs.name))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut begun = rng.u32(1..4);
        while begun > 0 {
            let line = said.next().expect("the client ended by itself").unwrap();
            begun -= u32::from(line.ends_with("begins"));
        }
        (0..rng.u32(..200_000)).for_each(|_| std::hint::spin_loop());
        let ours = rig.memory(other.len() + 2);
        let request = load("other", &format!("o{kill}"), GPUS[0], &[&ours], &[(0, 3_000_000, 1, 0)]);
        let mut second = client.clone();
        let running = tokio::spawn(async move { second.load_model_async(request).await });
        child.kill().unwrap();
        child.wait().unwrap();
        running.await.unwrap().unwrap();
        let read = ours.read();
        assert!(read[1..=3_000_000] == other && read[0] == 0 && read[3_000_001] == 0, "kill {kill}");
    }
    // Everything of the dead comes back.
    let mut status = rig.ours().await;
    while !status.status(StatusRequest {}).await.unwrap().into_inner().loads.is_empty() {}
    while rig.open_windows.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    let memory = rig.memory(bytes.len());
    client.load_model_async(load("m", "last", GPUS[1], &[&memory], &[(0, 4_000_000, 0, 0)])).await.unwrap();
    assert!(memory.read() == bytes);
}

/// Loads again and again until it is killed: started by the test above.
#[tokio::test]
#[ignore = "a client to be killed"]
async fn client() {
    let Ok(text) = std::env::var("SLLM_GDS_TEST_CLIENT") else { return };
    let [at, name, id] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let memory = Memory { name: name.into(), path: Default::default() };
    let all: [Chunk; 1] = [(0, 4_000_000, 0, 0)];
    let mut client = theirs_at(at).await;
    for load_number in 0.. {
        println!("load {load_number} begins");
        std::io::stdout().flush().unwrap();
        client.load_model_async(warm("m")).await.unwrap();
        client
            .load_model_async(load("m", &format!("{id}-{load_number}"), GPUS[0], &[&memory], &all))
            .await
            .unwrap();
    }
}
