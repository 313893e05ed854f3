//! The queue against a model that is a list.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Enter(u128, u8),
    Next,
    Leave(u128),
    Pause(u128),
    Resume(u128),
    SetPriority(u128, u8),
    SetLimits(Option<u32>, Option<u32>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 0..12_u128;
    let priority = || prop_oneof![Just(0_u8), Just(5), Just(63), Just(64), Just(127)];
    let step = prop_oneof![
        4 => (id(), priority()).prop_map(|(id, priority)| Step::Enter(id, priority)),
        4 => Just(Step::Next),
        2 => id().prop_map(Step::Leave),
        1 => id().prop_map(Step::Pause),
        1 => id().prop_map(Step::Resume),
        1 => (id(), priority()).prop_map(|(id, priority)| Step::SetPriority(id, priority)),
        1 => (proptest::option::of(0..4_u32), proptest::option::of(0..6_u32))
            .prop_map(|(concurrent, pending)| Step::SetLimits(concurrent, pending)),
    ];
    proptest::collection::vec(step, 0..80)
}

/// In the order of arrival: id, priority, place.
#[derive(Default)]
struct Model {
    all: Vec<(u128, u8, Place)>,
    limits: (u32, u32),
}

impl Model {
    fn count(&self, wanted: Place) -> u32 {
        self.all.iter().filter(|(_, _, place)| *place == wanted).count() as u32
    }

    fn has_place_for(&self, more: u32) -> bool {
        self.limits.0 == 0 || more < self.limits.0
    }

    /// Stable: equal priorities stay in the order of arrival.
    fn waiting(&self) -> Vec<u128> {
        let mut waiting: Vec<_> = self.all.iter().filter(|(_, _, place)| *place == Place::Waiting).collect();
        waiting.sort_by_key(|(_, priority, _)| std::cmp::Reverse(*priority));
        waiting.into_iter().map(|(id, _, _)| *id).collect()
    }

    fn get(&mut self, id: u128) -> Option<&mut (u128, u8, Place)> {
        self.all.iter_mut().find(|(known, _, _)| *known == id)
    }
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_list_would(steps in steps(), concurrent in 0..4_u32, pending in 0..6_u32) {
        let mut queue = Queue::new(QueuePlan { max_concurrent: concurrent, max_pending: pending });
        let mut model = Model { limits: (concurrent, pending), ..Model::default() };
        for step in steps {
            match step {
                Step::Enter(id, _) if model.get(id).is_some() => {}
                Step::Enter(id, priority) => {
                    let waits = model.count(Place::Waiting);
                    let fits = model.has_place_for(model.count(Place::Active) + waits) || waits < model.limits.1;
                    prop_assert_eq!(queue.enter(TransferId(id), priority).is_ok(), fits);
                    if fits {
                        model.all.push((id, priority, Place::Waiting));
                    }
                }
                Step::Next => {
                    let first = model.waiting().first().copied();
                    let next = first.filter(|_| model.has_place_for(model.count(Place::Active)));
                    prop_assert_eq!(queue.next(), next.map(TransferId));
                    if let Some(begun) = next.and_then(|id| model.get(id)) {
                        begun.2 = Place::Active;
                    }
                }
                Step::Leave(id) => {
                    queue.leave(TransferId(id));
                    model.all.retain(|(known, _, _)| *known != id);
                }
                Step::Pause(id) => {
                    queue.pause(TransferId(id));
                    if let Some(held) = model.get(id) {
                        held.2 = Place::Paused;
                    }
                }
                Step::Resume(id) => {
                    queue.resume(TransferId(id));
                    if let Some(held) = model.get(id).filter(|held| held.2 == Place::Paused) {
                        held.2 = Place::Waiting;
                    }
                }
                Step::SetPriority(id, priority) => {
                    queue.set_priority(TransferId(id), priority);
                    if let Some(other) = model.get(id) {
                        other.1 = priority;
                    }
                }
                Step::SetLimits(concurrent, pending) => {
                    queue.set_limits(concurrent, pending);
                    model.limits = (concurrent.unwrap_or(model.limits.0), pending.unwrap_or(model.limits.1));
                }
            }
            let waiting = model.waiting();
            prop_assert_eq!(queue.waiting().map(|id| id.0).collect::<Vec<_>>(), waiting.clone());
            prop_assert_eq!(queue.active(), model.count(Place::Active));
            prop_assert_eq!(queue.pending() as usize, waiting.len());
            for (id, _, place) in &model.all {
                prop_assert_eq!(queue.place(TransferId(*id)), Some(*place));
                let position = waiting.iter().position(|other| other == id).map(|at| at as u32 + 1);
                prop_assert_eq!(queue.position(TransferId(*id)), position);
            }
        }
    }
}

#[test]
fn without_a_limit_more_run_than_anybody_asks_for_and_not_without_end() {
    let mut queue = Queue::new(QueuePlan { max_concurrent: 0, max_pending: 1 });
    for id in 0..u128::from(MAX_ACTIVE) {
        queue.enter(TransferId(id), 0).unwrap();
        assert_eq!(queue.next(), Some(TransferId(id)));
    }
    let one_more = TransferId(u128::MAX);
    queue.enter(one_more, 0).unwrap();
    assert_eq!((queue.next(), queue.enter(TransferId(u128::MAX - 1), 0)), (None, Err(Full)));
    queue.leave(TransferId(5));
    assert_eq!(queue.next(), Some(one_more));
}
