//! The words of the shop desk. No word serves in two lists, so a role can be read off a word.

use std::ops::RangeInclusive;

/// Greetings a cloud prompt may ask for.
pub const GREETINGS: [&str; 12] = [
    "Hello",
    "Welcome",
    "Greetings",
    "Howdy",
    "Ahoy",
    "Hi",
    "Hey",
    "Salutations",
    "Bonjour",
    "Ciao",
    "Aloha",
    "Namaste",
];

/// Guests' names that are one token; other names are spelled.
pub const NAMES: [&str; 64] = [
    "Ada", "Alan", "Amir", "Anna", "Aya", "Ben", "Boris", "Carl", "Chen", "Clara", "Dana", "David",
    "Elif", "Emil", "Emma", "Eva", "Farah", "Felix", "Finn", "Grace", "Hana", "Hugo", "Ida",
    "Igor", "Ines", "Ivan", "Jack", "Jana", "Joan", "Jonas", "Kai", "Karin", "Kofi", "Lara", "Leo",
    "Lina", "Luca", "Maja", "Marco", "Maria", "Mei", "Milan", "Nadia", "Nina", "Noah", "Nora",
    "Olga", "Omar", "Oscar", "Paul", "Petra", "Priya", "Rosa", "Ruth", "Sam", "Sara", "Simon",
    "Sofia", "Tariq", "Tomas", "Uma", "Vera", "Yuki", "Zara",
];

/// Plans the shop sells.
pub const PLANS: [&str; 40] = [
    "amber", "aqua", "azure", "beige", "bronze", "cedar", "cobalt", "copper", "coral", "cream",
    "crimson", "ebony", "emerald", "golden", "green", "indigo", "iron", "ivory", "jade", "lemon",
    "lilac", "lime", "maple", "marble", "mint", "navy", "olive", "onyx", "opal", "orange", "pearl",
    "pink", "plum", "purple", "ruby", "rust", "silver", "teal", "violet", "walnut",
];

/// Prices in coins and durations in days: every number is one token.
pub const NUMBERS: RangeInclusive<u32> = 10..=99;
