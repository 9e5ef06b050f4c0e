// SPDX-License-Identifier: Apache-2.0
//! Values from threads to one thread, as by `std::sync::mpsc`, whose three kinds of channels take 3 KB of the
//! program for each type of value. This is the kind without a bound.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::list::take_first;

/// The other side is gone; or, of [`Receiver::try_recv`], there is no value now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nothing;

#[derive(Debug)]
struct State<T> {
    /// The oldest first: there are never many.
    values: Vec<T>,
    senders: usize,
    receives: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where values go in.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Where they come out, in their order.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// A channel.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { values: Vec::new(), senders: 1, receives: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Never waits.
    ///
    /// # Errors
    /// Nobody will receive the value: it is dropped.
    pub fn send(&self, value: T) -> Result<(), Nothing> {
        let mut state = self.0.state();
        if !state.receives {
            return Err(Nothing);
        }
        state.values.push(value);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Waits for a value.
    ///
    /// # Errors
    /// There is none and no sender is left.
    pub fn recv(&self) -> Result<T, Nothing> {
        let mut state = self.0.state();
        loop {
            match take_first(&mut state.values) {
                Some(value) => return Ok(value),
                None if state.senders == 0 => return Err(Nothing),
                None => {
                    state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The value that is there now.
    ///
    /// # Errors
    /// There is none.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        take_first(&mut self.0.state().values).ok_or(Nothing)
    }
}

impl<T> Drop for Receiver<T> {
    /// What was sent and not received is dropped now, as a sender inside it may be waited for.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.receives = false;
        let left = std::mem::take(&mut state.values);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_order_and_end_with_the_last_sender() {
        let (sender, receiver) = channel();
        assert_eq!(receiver.try_recv(), Err(Nothing));
        let threads = [0, 100].map(|first| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for number in first..first + 100 {
                    sender.send(number).unwrap();
                }
            })
        });
        drop(sender);
        let (mut low, mut high) = (0..100, 100..200);
        while let Ok(number) = receiver.recv() {
            let next = if number < 100 { low.next() } else { high.next() };
            assert_eq!(Some(number), next);
        }
        assert_eq!((low.next(), high.next()), (None, None));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn who_waits_learns_that_nobody_will_answer() {
        let (orders, taken) = channel();
        let (done, is_done) = channel::<()>();
        orders.send(done).unwrap();
        let waits = std::thread::spawn(move || is_done.recv());
        // The order is dropped with its receiver, and with it the one sender of the answer.
        drop(taken);
        assert_eq!(waits.join().unwrap(), Err(Nothing));
        assert_eq!(orders.send(channel().0), Err(Nothing));
    }
}
