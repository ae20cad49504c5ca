//! What a listener says while it waits for the leader's lock.

use crate::condition::Role;

/// It looks for who holds the lock at once, and after each so many polls again.
const LOOK_EACH: u32 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    polls: u32,
    said: Option<Role>,
}

impl Wait {
    /// The lock was not ours: whether to look for who holds it.
    pub(crate) fn is_to_look(&mut self) -> bool {
        self.polls += 1;
        self.polls % LOOK_EACH == 1
    }

    /// What it is then, and says once. `stranger`: who holds the lock, and is no listener.
    pub(crate) fn role(&mut self, stranger: Option<String>) -> Role {
        let role = stranger.map_or(Role::Standby, Role::Blocked);
        if self.said.as_ref() != Some(&role) {
            match &role {
                Role::Blocked(why) => tracing::error!("{why}: end it (select pg_terminate_backend(…))"),
                _ => tracing::info!("another listener is active: standing by"),
            }
            self.said = Some(role.clone());
        }
        role
    }
}
