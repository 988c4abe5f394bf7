//! Several tasks at once, each of which may itself use all threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `f` of each item, at most `workers` at a time on the current thread pool; results in the items' order.
///
/// # Errors
/// That of the first item, in order, that failed. After a failure no further item is begun.
pub fn for_each<T: Sync, R: Send, E: Send>(
    items: &[T],
    workers: usize,
    f: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Option<Result<R, E>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    rayon::scope(|scope| {
        for _ in 0..workers.clamp(1, items.len().max(1)) {
            scope.spawn(|_| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = f(item);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    *results[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let results = results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    results.flatten().collect() // what was not begun comes after the failure that ends this
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_and_the_first_error_wins() {
        let items: Vec<u32> = (0..100).collect();
        for workers in [0, 1, 3, 200] {
            assert_eq!(
                for_each(&items, workers, |x| Ok::<_, ()>(x * 2)).unwrap(),
                items.iter().map(|x| x * 2).collect::<Vec<_>>()
            );
            let failed = for_each(&items, workers, |x| if *x >= 40 { Err(*x) } else { Ok(*x) });
            assert!((40..40 + workers.max(1) as u32).contains(&failed.unwrap_err()));
        }
        assert!(for_each(&[] as &[u32], 4, |x| Ok::<_, ()>(*x)).unwrap().is_empty());
    }

    #[test]
    fn no_more_than_the_workers_run_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for_each(&[0; 64], 2, |_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
