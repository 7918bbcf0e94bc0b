//! The flight recorder: what KEDA was told about each trigger, and when that changed.
//!
//! Only changes are kept, for [`LIFETIME`] and within [`CAPACITY`] bytes, the oldest first out. One namespace has at
//! most a quarter of them, and so have all the triggers together that were never answered, because callers choose
//! names. A call that is told the same as before costs a look-up and a comparison, and no memory.

mod clock;
mod connections;
mod episodes;
mod history;
mod incidents;
mod log;
mod recall;
mod succession;
mod texts;
mod trigger;
mod troubles;

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

use self::{
    clock::Clock,
    connections::Connections,
    log::{Entry, Log, Packed},
    texts::Texts,
    trigger::Trigger,
    troubles::Troubles,
};
pub use self::{
    clock::since_boot,
    connections::Present,
    episodes::{Episode, Matter},
    history::{
        Change, Connection, DroppedState, EndedBy, Event, Happening, History, Incident, RejectedFile, Served, Stalled,
        TriggerHistory, Window,
    },
    recall::OtherQuery,
    succession::{ONE_POLL, Polls, REPLACED_WITHIN, predecessor},
    texts::shortened_list,
    troubles::Trouble,
};

/// The time for which a change is remembered.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// The name that `clapometer get` uses by default, also for an object of a manifest. Its calls are not KEDA's: their
/// end is no silence, and what they are told is no trouble.
pub const LOOKING: &str = "clapometer-get";

/// The time within which KEDA has asked for something if it asks this process at all: two of its default intervals.
pub const LATELY: Duration = Duration::from_secs(60);

/// The most bytes of everything that is remembered.
const CAPACITY: usize = 16 * 1024 * 1024;

/// The most bytes of one namespace.
const NAMESPACE_CAPACITY: usize = CAPACITY / 4;

/// The number of triggers that are forgotten at once: to find the longest silent ones takes a walk over all.
const FORGOTTEN_AT_ONCE: usize = 64;

/// The bytes that a trigger takes beside its texts: its record, and its places in the tables, which are up to half
/// empty and are held twice while they grow.
const TRIGGER_BYTES: usize = 720;

/// The same for a namespace.
const TENANT_BYTES: usize = 512;

/// Tenths of a second since the recorder was made, those of suspensions of the machine included.
type Tenths = u32;

/// The triggers of one object are asked for within this time of each other: [`ONE_POLL`].
const SAME_POLL: Tenths = 50;

/// The calls for triggers that are answered at once come within this time.
const ONE_CALL: Tenths = 10;

/// One trigger as it asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// A hash of its object and its metadata; none for a trigger that is refused, whose metadata may hold a secret.
    pub id: Option<u64>,
    /// The namespace that the request claims.
    pub namespace: &'a str,
    /// The ScaledObject or ScaledJob.
    pub name: &'a str,
    /// The query's name.
    pub query: &'a str,
    /// The target that KEDA divides by; none where the metadata has no valid one.
    pub target: Option<f64>,
    /// The number that the activity must exceed; none where the metadata has no valid one.
    pub activation: Option<f64>,
    /// The divisor of the value; none where the metadata has no valid one.
    pub divide_by: Option<f64>,
}

/// An answer that KEDA was given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer<'a> {
    /// GetMetrics told this value.
    Value(f64),
    /// IsActive told this.
    Active(bool),
    /// A stream told this.
    Pushed(bool),
    /// GetMetrics ended with an error.
    NoValue(Cause<'a>),
    /// IsActive ended with an error.
    NoActivity(Cause<'a>),
    /// The trigger was refused, whatever it asked for.
    Refused(Cause<'a>),
}

/// The status of an answer that is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause<'a> {
    /// The code, as the metrics spell it.
    pub code: &'static str,
    /// The text.
    pub text: &'a str,
}

/// The owner of a part of the memory: a namespace; none for the triggers that were never answered.
type TenantName = Option<Arc<str>>;

type Tenants = HashMap<TenantName, Tenant>;

/// The recorder of a process.
#[derive(Debug)]
pub struct Recorder {
    hasher: RandomState,
    clock: Clock,
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    triggers: HashMap<u64, Trigger>,
    /// The keys of the triggers of each object, by a hash of its names.
    objects: HashMap<u64, Vec<u64>>,
    tenants: Tenants,
    texts: Texts,
    troubles: Troubles,
    incidents: VecDeque<(Tenths, Incident)>,
    connections: Connections,
    /// The time of the latest change that was forgotten of a namespace that has nothing left.
    forgot: Option<Tenths>,
    /// The number of the next trigger. Numbers are not used again, so that no record changes its owner.
    next: u32,
    trigger_bytes: usize,
    bytes: usize,
}

/// The log of one namespace, and the memory that it takes.
#[derive(Debug, Default)]
struct Tenant {
    log: Log,
    triggers: usize,
    trigger_bytes: usize,
    bytes: usize,
    /// The time of the latest change that was forgotten, if any was.
    forgot: Option<Tenths>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { hasher: RandomState::new(), clock: Clock::default(), store: Mutex::default() }
    }
}

impl Recorder {
    /// Records what a trigger was told, if that differs from what it was told before.
    pub fn told(&self, asker: Asker<'_>, answer: Answer<'_>, now: Instant) {
        let at = self.clock.tenths(now);
        let key = self.key(&asker);
        let mut store = self.lock();
        let store = &mut *store;
        let known = store.triggers.get_mut(&key).filter(|known| known.is_same(&asker));
        if let Some(known) = known
            && known.is_told_again(answer, at, &store.texts)
        {
            store.troubles.follow(known, answer, at);
            return;
        }
        let object = self.hasher.hash_one((asker.namespace, asker.name));
        store.record(key, object, asker, answer, at);
    }

    /// Records that a trigger asks with other metadata than before. Only the names of the `keys` that changed are told.
    pub fn changed(&self, asker: Asker<'_>, keys: &str, now: Instant) {
        let at = self.clock.tenths(now);
        let object = self.hasher.hash_one((asker.namespace, asker.name));
        self.lock().change(self.key(&asker), object, asker, keys, at);
    }

    fn key(&self, asker: &Asker<'_>) -> u64 {
        asker.id.unwrap_or_else(|| self.hasher.hash_one((asker.namespace, asker.name, asker.query, "refused")))
    }

    /// Returns the present on the wall clock by which the recorder tells times.
    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Records a change of a trigger.
    fn record(&mut self, key: u64, object: u64, asker: Asker<'_>, answer: Answer<'_>, at: Tenths) {
        let is_new = self.ensure(key, object, &asker, at);
        let tenant = self.tenant_of(object, asker.namespace);
        match answer {
            // The next answer of another trigger of this object ends the refusal, and so it is news.
            Answer::Refused(_) => self.interrupt(key, object),
            Answer::Value(_) | Answer::Active(_) => self.end_refusals(object, at),
            _ => {}
        }
        let Some(trigger) = self.triggers.get_mut(&key) else { return };
        let number = trigger.number;
        let mut silence = if is_new || matches!(answer, Answer::Pushed(_)) { None } else { trigger.asked(at) };
        if silence.is_some_and(|since| self.is_asked_otherwise(key, object, since, at)) {
            // It had other metadata meanwhile, or was refused: what it is told now begins now.
            if let (Some(trigger), Some(left_at)) = (self.triggers.get_mut(&key), silence.take()) {
                trigger.returned = Some((left_at, at));
            }
            self.forget_told(key);
        }
        let Some(trigger) = self.triggers.get_mut(&key) else { return };
        let cause = match answer {
            Answer::NoValue(cause) | Answer::NoActivity(cause) | Answer::Refused(cause) => Some(cause),
            Answer::Value(_) | Answer::Active(_) | Answer::Pushed(_) => None,
        };
        let text = cause.map(|cause| {
            let (text, new_bytes) = self.texts.hold(cause, &tenant);
            charge(&mut self.tenants, &mut self.bytes, &tenant, new_bytes);
            text
        });
        let packed = Packed::of(answer, text.unwrap_or_default());
        let is_change = !trigger.is_told(packed) || matches!(answer, Answer::Refused(_));
        if let Some(released) = trigger.tell(packed, at) {
            release(&mut self.texts, &mut self.tenants, &mut self.bytes, released);
        }
        if is_change {
            self.texts.hold_again(packed);
        }
        self.troubles.follow(trigger, answer, at);
        if let Some(since) = silence.filter(|_| trigger.payer.is_some()) {
            self.troubles.passed(Trouble::Silent, "", trigger, (since, at));
        }
        let silence = silence.map(Packed::silence).into_iter();
        for packed in silence.chain(is_change.then_some(packed)) {
            self.push(&tenant, Entry { at, trigger: number, packed });
        }
        self.make_room(&tenant, key, at);
    }

    /// Records that the metadata of a trigger changed.
    fn change(&mut self, key: u64, object: u64, asker: Asker<'_>, keys: &str, at: Tenths) {
        self.ensure(key, object, &asker, at);
        let tenant = self.tenant_of(object, asker.namespace);
        let Some(trigger) = self.triggers.get(&key) else { return };
        self.troubles.passed(Trouble::Changed, keys, trigger, (at, at));
        let number = trigger.number;
        let (text, new_bytes) = self.texts.hold(Cause { code: "", text: keys }, &tenant);
        charge(&mut self.tenants, &mut self.bytes, &tenant, new_bytes);
        self.push(&tenant, Entry { at, trigger: number, packed: Packed::changed(text) });
        self.make_room(&tenant, key, at);
    }

    /// Adds a change to the log of a tenant.
    fn push(&mut self, tenant: &TenantName, entry: Entry) {
        let new_bytes = owner(&mut self.tenants, &mut self.bytes, tenant).log.push(entry);
        charge(&mut self.tenants, &mut self.bytes, tenant, new_bytes);
    }

    /// Makes sure that a trigger has a record, and returns whether it had none.
    fn ensure(&mut self, key: u64, object: u64, asker: &Asker<'_>, at: Tenths) -> bool {
        match self.triggers.get(&key) {
            Some(known) if known.is_same(asker) => return false,
            // A reload gave the same metadata another query, target or divisor: the trigger goes on as another one.
            Some(_) => self.retire(key, object),
            None => {}
        }
        self.enter(key, object, asker, at);
        true
    }

    /// Makes the record of a trigger.
    fn enter(&mut self, key: u64, object: u64, asker: &Asker<'_>, at: Tenths) {
        let payer = match asker.id {
            Some(_) => Some(self.namespace(asker.namespace)),
            None => self.tenant_of(object, asker.namespace),
        };
        self.objects.entry(object).or_default().push(key);
        let trigger = Trigger::new(self.next, object, asker, payer, at);
        self.next = self.next.wrapping_add(1);
        let owner = owner(&mut self.tenants, &mut self.bytes, &trigger.payer);
        owner.triggers += 1;
        owner.trigger_bytes += trigger.bytes();
        self.trigger_bytes += trigger.bytes();
        charge(&mut self.tenants, &mut self.bytes, &trigger.payer, trigger.bytes());
        self.triggers.insert(key, trigger);
    }

    /// Moves a trigger to another key, so that its own is free.
    fn retire(&mut self, key: u64, object: u64) {
        let Some(trigger) = self.triggers.remove(&key) else { return };
        // As random as the key itself.
        let other = key.rotate_left(32) ^ u64::from(trigger.number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        if let Some(sibling) = self.objects.get_mut(&object).and_then(|keys| keys.iter_mut().find(|one| **one == key)) {
            *sibling = other;
        }
        self.triggers.insert(other, trigger);
    }

    /// Returns the shared name of a namespace.
    fn namespace(&self, name: &str) -> Arc<str> {
        let known = self.tenants.get_key_value(&Some(Arc::from(name))).and_then(|(name, _)| name.clone());
        known.unwrap_or_else(|| Arc::from(name))
    }

    /// Returns the tenant whose quota the changes of an object count for: its namespace, once one of its triggers was
    /// answered.
    fn tenant_of(&self, object: u64, namespace: &str) -> TenantName {
        let mut siblings = self.objects.get(&object).into_iter().flatten().filter_map(|key| self.triggers.get(key));
        siblings.any(|trigger| trigger.payer.is_some()).then(|| self.namespace(namespace))
    }

    /// Forgets what the other triggers of an object were last told, so that the next answer is a change.
    fn interrupt(&mut self, key: u64, object: u64) {
        for other in self.objects.get(&object).cloned().unwrap_or_default() {
            if other != key {
                self.forget_told(other);
            }
        }
    }

    /// Forgets what a trigger was last told.
    fn forget_told(&mut self, key: u64) {
        for text in self.triggers.get_mut(&key).into_iter().flat_map(Trigger::interrupt) {
            release(&mut self.texts, &mut self.tenants, &mut self.bytes, text);
        }
    }

    /// Returns whether KEDA asked for an object with other metadata between two polls of a trigger.
    fn is_asked_otherwise(&self, key: u64, object: u64, since: Tenths, at: Tenths) -> bool {
        let others = self.objects.get(&object).into_iter().flatten().filter(|other| **other != key);
        // Those of the poll before, and those of this one, were away as well.
        let is_meanwhile = |at_that_time: Tenths| since < at_that_time && at_that_time + ONE_CALL < at;
        let is_other = |other: &Trigger| {
            since + SAME_POLL < other.asked_at && (is_meanwhile(other.began_at) || is_meanwhile(other.asked_at))
        };
        others.filter_map(|other| self.triggers.get(other)).any(is_other)
    }

    /// Ends the troubles of an object's triggers that were refused before the present poll. One that is refused again
    /// has it again.
    fn end_refusals(&mut self, object: u64, at: Tenths) {
        for key in self.objects.get(&object).into_iter().flatten() {
            let trigger = self.triggers.get_mut(key).filter(|trigger| trigger.target.is_none());
            if let Some(refused) = trigger.filter(|trigger| trigger.asked_at + SAME_POLL < at) {
                self.troubles.leave(refused.trouble.take(), refused.asked_at);
            }
        }
    }

    /// Forgets the oldest changes until everything fits, and what is older than [`LIFETIME`]. Triggers have at most
    /// half of the memory, so that changes have the other half.
    fn make_room(&mut self, tenant: &TenantName, keep: u64, now: Tenths) {
        let oldest = now.saturating_sub(tenths_of(LIFETIME));
        while self.tenants.get(tenant).is_some_and(|owner| owner.log.ends_before(oldest)) {
            self.forget_changes(tenant);
        }
        while let Some(owner) = self.tenants.get(tenant).filter(|owner| owner.bytes > NAMESPACE_CAPACITY) {
            let has_many = owner.trigger_bytes > NAMESPACE_CAPACITY / 2;
            let is_done = has_many && self.forget_triggers(Some(tenant), keep) || self.forget_changes(tenant);
            if !is_done && !self.forget_triggers(Some(tenant), keep) {
                break;
            }
        }
        while self.bytes > CAPACITY {
            let has_many = self.trigger_bytes > CAPACITY / 2;
            let is_done = has_many && self.forget_triggers(None, keep) || self.forget_oldest_changes();
            if !is_done && !self.forget_triggers(None, keep) {
                break;
            }
        }
    }

    /// Forgets the oldest changes of all tenants. Returns false if there are none.
    ///
    /// With many tenants it forgets those of several at once, because to find them takes a walk over all.
    fn forget_oldest_changes(&mut self) -> bool {
        let began_at = |(name, owner): (&TenantName, &Tenant)| Some((owner.log.began_at()?, name.clone()));
        let mut oldest: Vec<(Tenths, TenantName)> = self.tenants.iter().filter_map(began_at).collect();
        let count = (oldest.len() / FORGOTTEN_AT_ONCE).max(1);
        if count < oldest.len() {
            oldest.select_nth_unstable_by_key(count - 1, |(at, _)| *at);
            oldest.truncate(count);
        }
        for (_, tenant) in &oldest {
            self.forget_changes(tenant);
        }
        !oldest.is_empty()
    }

    /// Forgets the oldest changes of a tenant. Returns false if there are none.
    fn forget_changes(&mut self, tenant: &TenantName) -> bool {
        let Some(owner) = self.tenants.get_mut(tenant) else { return false };
        let Some((entries, bytes)) = owner.log.pop() else { return false };
        owner.forgot = owner.forgot.max(entries.last().map(|entry| entry.at));
        discharge(&mut self.tenants, &mut self.bytes, tenant, bytes);
        for text in entries.iter().filter_map(|entry| entry.packed.text()) {
            release(&mut self.texts, &mut self.tenants, &mut self.bytes, text);
        }
        self.drop_if_empty(tenant);
        true
    }

    /// Forgets the triggers of a tenant, or of all, that have been silent longest, but not the one of `keep`. Returns
    /// false if there are none.
    fn forget_triggers(&mut self, tenant: Option<&TenantName>, keep: u64) -> bool {
        let is_of = |trigger: &Trigger| tenant.is_none_or(|tenant| trigger.payer == *tenant);
        let may_go = self.triggers.iter().filter(|(key, trigger)| **key != keep && is_of(trigger));
        let mut candidates: Vec<(Tenths, u64)> = may_go.map(|(key, trigger)| (trigger.asked_at, *key)).collect();
        if candidates.len() > FORGOTTEN_AT_ONCE {
            candidates.select_nth_unstable(FORGOTTEN_AT_ONCE);
            candidates.truncate(FORGOTTEN_AT_ONCE);
        }
        for (_, key) in &candidates {
            self.forget_trigger(*key);
        }
        !candidates.is_empty()
    }

    fn forget_trigger(&mut self, key: u64) {
        let Some(mut trigger) = self.triggers.remove(&key) else { return };
        if let Some(siblings) = self.objects.get_mut(&trigger.object) {
            siblings.retain(|sibling| *sibling != key);
            if siblings.is_empty() {
                self.objects.remove(&trigger.object);
            }
        }
        for text in trigger.interrupt() {
            release(&mut self.texts, &mut self.tenants, &mut self.bytes, text);
        }
        if let Some(owner) = self.tenants.get_mut(&trigger.payer) {
            owner.triggers -= 1;
            owner.trigger_bytes -= trigger.bytes();
            self.trigger_bytes -= trigger.bytes();
            owner.forgot = owner.forgot.max(Some(trigger.asked_at));
        }
        discharge(&mut self.tenants, &mut self.bytes, &trigger.payer, trigger.bytes());
        self.drop_if_empty(&trigger.payer);
    }

    /// Drops the record of a namespace that has nothing left. What the strangers' tenant forgot stays known.
    fn drop_if_empty(&mut self, tenant: &TenantName) {
        let is_empty = |owner: &Tenant| owner.triggers == 0 && owner.log.is_empty() && owner.bytes <= TENANT_BYTES;
        if tenant.is_some() && self.tenants.get(tenant).is_some_and(is_empty) {
            let gone = self.tenants.remove(tenant).unwrap_or_default();
            self.bytes -= gone.bytes;
            self.forgot = self.forgot.max(gone.forgot);
        }
    }
}

/// Returns the record of a tenant, and makes it if there is none.
fn owner<'a>(tenants: &'a mut Tenants, all: &mut usize, tenant: &TenantName) -> &'a mut Tenant {
    tenants.entry(tenant.clone()).or_insert_with(|| {
        *all += TENANT_BYTES;
        Tenant { bytes: TENANT_BYTES, ..Tenant::default() }
    })
}

/// Counts bytes that a tenant takes.
fn charge(tenants: &mut Tenants, all: &mut usize, tenant: &TenantName, bytes: usize) {
    if bytes > 0 {
        owner(tenants, all, tenant).bytes += bytes;
        *all += bytes;
    }
}

/// Counts bytes that a tenant gives back.
fn discharge(tenants: &mut Tenants, all: &mut usize, tenant: &TenantName, bytes: usize) {
    if let Some(owner) = tenants.get_mut(tenant).filter(|_| bytes > 0) {
        owner.bytes -= bytes;
        *all -= bytes;
    }
}

/// Lets go of a text, and counts its bytes once nobody holds it.
fn release(texts: &mut Texts, tenants: &mut Tenants, all: &mut usize, text: u32) {
    if let Some((payer, bytes)) = texts.release(text) {
        discharge(tenants, all, &payer, bytes);
    }
}

fn tenths_of(duration: Duration) -> Tenths {
    Tenths::try_from(duration.as_millis() / 100).unwrap_or(Tenths::MAX)
}

#[cfg(test)]
mod tests;
