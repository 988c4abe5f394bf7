//! Whoever reads has seen enough: that is no failure, and no reason to stop the work.

use std::process::{Command, ExitStatus, Stdio};

use crate::support::{Place, Results, undisturbed};

/// A pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn status(command: &mut Command) -> ExitStatus {
    command.stdin(Stdio::null()).status().unwrap()
}

#[test]
fn a_closed_stdout_is_exit_code_0() {
    let place = Place::new();
    let commands: [&[&str]; 9] = [
        &["--help"],
        &["--version"],
        &["methods"],
        &["methods", "--json"],
        &["doctor"],
        &["check", "tiny.yaml"],
        &["check", "--schema"],
        &["inspect", "./model"],
        &["run", "tiny.yaml", "--progress", "silent"],
    ];
    for args in commands {
        let status = status(place.taper(args).stdout(closed()).stderr(Stdio::null()));
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_closed_stderr_stops_no_run() {
    let styles = ["plain", "bar", "json", "silent"];
    for style in styles {
        let place = Place::new();
        let mut command = place.taper(&["run", "tiny.yaml", "--progress", style]);
        let status = status(
            command.env("TAPER_LOG", "taper=trace,taper_pipeline=trace,info").stdout(Stdio::null()).stderr(closed()),
        );
        assert_eq!(status.code(), Some(0), "{style}");
        Results::of(&place.path("runs/tiny")).assert_same(undisturbed(), style);
    }
}

#[test]
fn a_closed_stderr_leaves_the_exit_code() {
    let place = Place::new();
    let commands: [&[&str]; 3] = [&["chekc"], &["check", "none.yaml"], &["inspect", "./none"]];
    for args in commands {
        let status = status(place.taper(args).stdout(Stdio::null()).stderr(closed()));
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let place = Place::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output =
        place.taper(&["methods"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.starts_with(b"error: stdout cannot be written to\n"));
}
