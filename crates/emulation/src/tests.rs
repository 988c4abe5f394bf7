//! The faults that it is there to find.

use taper_kernels::cuda::{Argument, Array, Command, Kind, Launch, Module, Storage};

use super::*;

/// What running a kernel of `broken.cu` on 64 threads says, and what it leaves.
fn run_broken(kernel: &'static str) -> (String, Vec<f32>) {
    let machine = Host::machine();
    let array = Array::uninitialised(&machine, &[64], Kind::F32).unwrap();
    let module = Module { file: BROKEN, storage: Storage::F32, d_head: None };
    let address = array.address();
    let launch =
        Launch { module, kernel, grid: [2, 1, 1], block: 64, shared: 256, arguments: vec![Argument::Pointer(address)] };
    let said = machine.run(&Command::Launch(launch)).err().map(|refusal| refusal.to_string());
    (said.unwrap_or_default(), array.to_host().unwrap())
}

#[test]
fn faults_are_found() {
    let found = |kernel| run_broken(kernel).0;
    assert_eq!(found("missing_barrier"), "missing_barrier: the result depends on the order of the threads");
    assert_eq!(found("across_blocks"), "across_blocks: the result depends on the order of the threads");
    assert_eq!(found("parted"), "parted: threads wait for others that have ended or wait elsewhere");
    assert!(found("two_collectives").starts_with("two_collectives: threads part: "));
    assert_eq!(found("beyond"), "beyond: a write outside of an array");
    assert_eq!(found("beyond_shared"), "beyond_shared: a write beyond dynamic shared memory");
    for kernel in ["unwritten", "too_early"] {
        let (said, left) = run_broken(kernel);
        assert!(
            said.is_empty() && left[0].is_nan() && left[1..].iter().all(|x| *x == 1.0),
            "{kernel}: {said} {left:?}"
        );
    }
}
