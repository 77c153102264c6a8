//! Signals: the first asks the daemon to end in order, the second ends it at once, SIGHUP reads the folders anew.

use std::io;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Exit code of a daemon that SIGINT ended at once: 128 and the signal's number, as shells say it.
const INTERRUPTED: u8 = 130;
/// Exit code of a daemon that SIGTERM ended at once.
const TERMINATED: u8 = 143;

/// Tells everyone who holds it that the daemon is to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: watch::Receiver<bool>,
}

/// Asks for the end; kept by whoever may ask. Dropping it asks, too.
#[derive(Debug)]
pub struct Trigger {
    asked: watch::Sender<bool>,
}

impl Shutdown {
    /// A shutdown and the trigger that starts it.
    #[must_use]
    pub fn new() -> (Trigger, Self) {
        let (sender, asked) = watch::channel(false);
        (Trigger { asked: sender }, Self { asked })
    }

    /// Returns when the end was asked for; at once if it was before. Cancel safe.
    pub async fn asked(&self) {
        // An error means that the trigger is gone, which asks as well.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow() || self.asked.has_changed().is_err()
    }

    /// The same as a plain watch, for parts on lower floors.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.asked.clone()
    }
}

impl Trigger {
    /// Asks for the end. Asking twice is asking once.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }
}

/// The process's signals, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Starts to catch SIGTERM, SIGINT and SIGHUP. Must be called inside a tokio runtime. SIGPIPE is ignored by
    /// Rust's start-up code, so a socket that the peer closed is an error of that one write.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Turns signals into letters until the process is to end at once: the first SIGTERM or SIGINT asks through
    /// `trigger`, each SIGHUP sends one letter to `rescan` (one waiting letter is enough), and the second SIGTERM or
    /// SIGINT returns the exit code to leave with now. Drop the future once the daemon has ended by itself.
    pub async fn run(mut self, trigger: &Trigger, rescan: mpsc::Sender<()>) -> ExitCode {
        let first = self.next_end(&rescan).await;
        tracing::info!(signal = first.name(), "ending; a second signal ends at once");
        trigger.ask();
        let second = self.next_end(&rescan).await;
        tracing::warn!(signal = second.name(), "ended at once");
        ExitCode::from(second.code())
    }

    async fn next_end(&mut self, rescan: &mpsc::Sender<()>) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Terminate,
                _ = self.interrupt.recv() => return End::Interrupt,
                _ = self.hang_up.recv() => {
                    // A full inbox holds a letter that was not read yet: that reading will see this change, too.
                    let _ = rescan.try_send(());
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Terminate,
    Interrupt,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Terminate => TERMINATED,
            Self::Interrupt => INTERRUPTED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_who_waits_is_told() {
        let (trigger, shutdown) = Shutdown::new();
        assert!(!shutdown.is_asked());
        let waiter = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.asked().await }
        });
        trigger.ask();
        trigger.ask();
        waiter.await.unwrap();
        shutdown.asked().await;
        assert!(shutdown.is_asked());
    }

    #[tokio::test]
    async fn a_lost_trigger_asks() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        shutdown.asked().await;
        assert!(shutdown.is_asked());
    }

    fn send(signal: &str) {
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &own]).status().unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends_at_once() {
        let (trigger, shutdown) = Shutdown::new();
        let (sender, mut rescan) = mpsc::channel(1);
        let signals = Signals::catch().unwrap();
        let running = tokio::spawn(async move { signals.run(&trigger, sender).await });
        send("-HUP");
        assert_eq!(rescan.recv().await, Some(()));
        assert!(!shutdown.is_asked(), "SIGHUP only asks for a reading");
        send("-TERM");
        shutdown.asked().await;
        send("-INT");
        assert_eq!(format!("{:?}", running.await.unwrap()), format!("{:?}", ExitCode::from(130)));
    }
}
