//! Downloads that break: nothing of them is taken for whole, and they go on where they broke.

use std::fs;

use taper_base::progress::Silent;
use taper_hub::{HubError, LocalModel};
use testkit::hub::Fault;

use crate::{CONFIG, Hub, TOKENIZER, WEIGHTS};

#[test]
fn a_broken_download_is_never_taken_for_a_whole_one() {
    let faults = [Fault::Cut(5), Fault::CutSilently(5), Fault::Garble, Fault::Page(403), Fault::Page(200)];
    for (part, fault) in ["/cdn/", "config.json"].into_iter().flat_map(|part| faults.clone().map(|fault| (part, fault)))
    {
        let hub = Hub::new(&[CONFIG, WEIGHTS]);
        hub.server.set_fault(part, fault.clone());
        let error = hub.model("o/m").unwrap_err();
        let expected = matches!(error, HubError::Damaged { .. } | HubError::Request { .. } | HubError::Denied { .. });
        assert!(expected, "{part} {fault:?}: {error:?}");
        assert!(hub.offline().fetch_model(&"o/m".parse().unwrap(), &Silent).is_err());
        hub.server.clear_faults();
        let local = hub.model("o/m").unwrap();
        assert_eq!(fs::read(local.dir.join("model.safetensors")).unwrap(), WEIGHTS.1);
        assert_eq!(fs::read(local.dir.join("config.json")).unwrap(), CONFIG.1);
        assert!(!hub.repository().join(".taper-partial").exists());
    }
}

/// More than two pieces of a transfer, no two alike.
fn large() -> Vec<u8> {
    (0..70 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_broken_download_goes_on_at_its_last_piece() {
    const PIECE: usize = 32 << 20;
    let weights = large();
    let hub = Hub::new(&[CONFIG, ("model.safetensors", &weights)]);
    hub.model("o/other").unwrap();
    let of_weights = || -> Vec<_> {
        hub.server
            .take_requests()
            .into_iter()
            .filter(|request| request.path.contains("/cdn/"))
            .filter_map(|r| r.range)
            .collect()
    };
    let pieces = [(0, PIECE - 1), (PIECE, 2 * PIECE - 1), (2 * PIECE, weights.len() - 1)];
    assert_eq!(of_weights(), pieces);

    // the second piece breaks for good, as when the network goes; and what a kill leaves is a file that is not whole
    hub.server.set_fault_after("/cdn/", Fault::Cut(1000), 2); // the first piece is a HEAD and a GET
    assert!(hub.model("o/m").is_err());
    let asked = of_weights();
    assert_eq!(asked[..2], pieces[..2]);
    assert!(asked[2..].iter().all(|range| *range == pieces[1]), "{asked:?}");
    hub.server.clear_faults();
    let local = hub.model("o/m").unwrap();
    assert_eq!(of_weights(), pieces[1..], "the first piece is not fetched again");
    assert!(fs::read(local.dir.join("model.safetensors")).unwrap() == weights);
    assert!(!hub.repository().join(".taper-partial").exists());

    // half a piece, as a kill in the middle of writing leaves it
    let partial = hub.settings.cache.join("models--o--k/.taper-partial");
    fs::create_dir_all(&partial).unwrap();
    let oid = testkit::hub::blob("model.safetensors", &weights);
    taper_base::files::write(&partial.join(oid), &weights[..PIECE + 5]).unwrap();
    let local = hub.model("o/k").unwrap();
    assert_eq!(of_weights(), [(PIECE + 5, 2 * PIECE + 4), (2 * PIECE + 5, weights.len() - 1)]);
    assert!(fs::read(local.dir.join("model.safetensors")).unwrap() == weights);
}

#[test]
fn a_hundred_downloads_under_faults_end_whole_or_with_a_clear_error() {
    let weights: Vec<u8> = large()[..100_000].to_vec();
    let files: Vec<(&str, &[u8])> = vec![CONFIG, TOKENIZER, ("model.safetensors", &weights)];
    let parts = ["/revision/", "/tree/", "config.json", "tokenizer.json", "/resolve/", "/cdn/"];
    let kinds = [
        (Fault::Cut(7), 2),
        (Fault::Unheard(0), 1),
        (Fault::Refuse(503, "", "resting"), 2),
        (Fault::Garble, 1),
        (Fault::Refuse(429, "", "slow down"), 1),
        (Fault::Lost, 1),
        (Fault::CutSilently(99), 3),
        (Fault::Page(200), 1),
        (Fault::Refuse(404, "", "where?"), 1),
        (Fault::Refuse(401, "", "who?"), 1),
    ];
    let (mut whole, mut failed) = (0, 0);
    for index in 0..100 {
        let hub = Hub::new(&files);
        let ((fault, times), part) = (&kinds[index % kinds.len()], parts[index / kinds.len() % parts.len()]);
        hub.server.set_faults(part, fault.clone(), *times);
        let check = |local: &LocalModel| {
            for (name, bytes) in &files {
                assert!(fs::read(local.dir.join(name)).unwrap() == *bytes, "{index}: {name}, {fault:?} at {part}");
            }
        };
        match hub.model("o/m") {
            Ok(local) => {
                whole += 1;
                check(&local);
            }
            Err(error) => {
                failed += 1;
                assert!(error.to_string().contains("model o/m at revision"), "{index}: {error}");
            }
        }
        hub.server.clear_faults();
        check(&hub.model("o/m").unwrap());
    }
    assert!(whole >= 40 && failed >= 20, "{whole} whole, {failed} failed");
}
