//! How far the table of times is off: predicted and measured latency of random architectures of a model.
//!
//! `latency_error MODEL PROMPT GENERATE BATCH COUNT`; each architecture is measured in turns, and right before it the whole
//! model. `time` compares milliseconds, and wants a quiet machine; `ratio` compares shares of the whole model, medians over
//! turns, and bears one that is busy in a steady way. A budget such as `60%` counts such shares.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program of measurements")]

use std::sync::Arc;

use taper_arch::budget::{Amount, Counted};
use taper_arch::{Architecture, Budget, Generation, SearchSpace, select};
use taper_base::progress::Silent;
use taper_base::rng::stream;
use taper_eval::{Spread, latency, latency_table};
use taper_model::{Checkpoint, Model};

/// Turns that each architecture is measured in.
const TURNS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [prompt, generate, batch, count] = [2, 3, 4, 5].map(|at| args[at].parse::<usize>().unwrap());
    let generation = Generation { prompt, generate, batch };
    let model = Model::load(&Checkpoint::open(std::path::Path::new(&args[1])).unwrap()).unwrap();
    let (mut spec, space) = (model.spec().clone(), SearchSpace::default());
    spec.latency = Some(Arc::new(latency_table(&model, &space, generation, &Silent).unwrap()));
    let table = spec.latency.clone().unwrap();
    let draw = |index: usize| {
        let share = 0.5 + 0.45 * index as f64 / count.max(2) as f64; // from half of the whole up
        let budget = Budget { amount: Amount::Share(share), counted: Counted::Total, tolerance: 0.05 };
        let range = budget.range(&spec).unwrap();
        space.random(&spec, range, &mut stream(1, "error", index as u64, 0)).unwrap()
    };
    let whole = table.predict(&spec, &Architecture::whole(&spec)).unwrap().0 as f64;
    let architectures: Vec<Architecture> = (0..count).map(draw).collect();
    let mut measured = vec![[Vec::new(), Vec::new()]; count];
    let total = |model: &Model| latency(model, generation, 1, &Silent).unwrap().total.median;
    for _ in 0..TURNS {
        for (arch, [times, ratios]) in architectures.iter().zip(&mut measured) {
            let cut = model.cut(&select::prefixes(&spec, arch).unwrap().blocks).unwrap();
            let (before, time, after) = (total(&model), total(&cut), total(&model));
            times.push(time);
            ratios.push(2.0 * time / (before + after));
        }
    }
    let mut errors = [Vec::new(), Vec::new()];
    for (arch, found) in architectures.iter().zip(measured) {
        let predicted = table.predict(&spec, arch).unwrap().0 as f64;
        let [time, ratio] = found.map(|samples| Spread::of(samples).median);
        let off = [predicted / 1e9 / time - 1.0, predicted / whole / ratio - 1.0];
        println!(
            "time {:7.1} ms for {:7.1} ({:+5.1}%), ratio {:.3} for {ratio:.3} ({:+5.1}%)  {arch}",
            predicted / 1e6,
            time * 1e3,
            100.0 * off[0],
            predicted / whole,
            100.0 * off[1]
        );
        errors.iter_mut().zip(off).for_each(|(errors, off)| errors.push(off.abs()));
    }
    for (what, errors) in ["time", "ratio"].into_iter().zip(errors) {
        let Spread { median, high, .. } = Spread::of(errors);
        println!("{what}: error of {count} architectures: median {:.1}%, worst {:.1}%", 100.0 * median, 100.0 * high);
    }
}
