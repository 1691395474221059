//! What an attempt cost: for sure, and at most. Pure.

use crate::job::{Micros, ModelName, Price, PriceTable, Usage};

/// What is known about an attempt when it has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    /// What the answer stated.
    pub(super) usage: Usage,
    /// Whether that is all. Usage is cumulative: what an answer had stated before it was cut off
    /// is less than its price.
    pub(super) usage_is_final: bool,
    /// It brought images.
    pub(super) succeeded: bool,
    /// The provider may have charged for it.
    pub(super) may_be_billed: bool,
    /// What was set aside for it.
    pub(super) reservation: Micros,
}

impl Account {
    /// The cost if it is known, and the most that it may have been.
    pub(super) fn cost(&self, model: &ModelName, prices: &PriceTable) -> (Option<Micros>, Micros) {
        let by_request = matches!(prices.get(model), Some(Price::PerRequest(_)));
        let stated = prices.cost(model, &self.usage);
        let known = match self.succeeded {
            true if by_request => stated,
            // A request that is billed as such and brought nothing may have been free, or not.
            false if by_request => None,
            _ => stated.filter(|_| self.usage_is_final),
        };
        let at_most = match known {
            Some(cost) => cost,
            None if self.may_be_billed => self.reservation.max(stated.unwrap_or_default()),
            None => Micros(0),
        };
        (known, at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: Micros = Micros(80_000);

    fn account() -> Account {
        let usage = Usage { prompt: Some(12), thoughts: Some(200), ..Usage::default() };
        Account { usage, usage_is_final: true, succeeded: true, may_be_billed: true, reservation: RESERVED }
    }

    fn check(account: Account, expect: (Option<Micros>, Micros)) {
        let model = ModelName::default_model();
        assert_eq!(account.cost(&model, &PriceTable::default()), expect, "{account:?}");
    }

    #[test]
    fn what_a_cut_answer_had_stated_is_not_its_price() {
        // 12 × 0.5 + 200 × 3 micro-dollars
        check(account(), (Some(Micros(606)), Micros(606)));
        check(Account { succeeded: false, ..account() }, (Some(Micros(606)), Micros(606)));
        check(Account { usage_is_final: false, ..account() }, (None, RESERVED));
        let beyond = Account { usage_is_final: false, reservation: Micros(100), ..account() };
        check(beyond, (None, Micros(606)));
    }

    #[test]
    fn what_cannot_have_been_billed_costs_nothing_and_the_unknown_the_reservation() {
        let silent = Account { usage: Usage::default(), succeeded: false, ..account() };
        check(silent, (None, RESERVED));
        check(Account { may_be_billed: false, ..silent }, (None, Micros(0)));
    }

    #[test]
    fn a_price_by_request_is_due_for_images() {
        let model = ModelName::default_model();
        let mut prices = PriceTable::default();
        prices.set(model.as_str(), Price::PerRequest(Micros(39_000)));
        let cut = Account { usage: Usage::default(), usage_is_final: false, ..account() };
        assert_eq!(cut.cost(&model, &prices), (Some(Micros(39_000)), Micros(39_000)));
        let nothing = Account { succeeded: false, ..cut };
        assert_eq!(nothing.cost(&model, &prices), (None, RESERVED));
    }
}
