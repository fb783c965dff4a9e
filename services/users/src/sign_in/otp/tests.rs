use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

const HERE: Asker = [1; 16];
const THERE: Asker = [2; 16];

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// The codes of one phone; the code of request `n` has the hash `[n; 32]`.
#[derive(Default)]
struct Codes(Vec<Code>);

impl Codes {
    fn request(&mut self, n: u8, asker: Asker, second: i64) {
        let last = self.0.iter().rfind(|code| code.asker == asker).cloned();
        self.0.push(Code::new(id(n.into()), asker, [n; 32], last.as_ref(), at(second)));
    }

    /// `right`, `wrong` or `dead`.
    fn present(&mut self, n: u8, by_id: Option<u8>, asker: Asker, second: i64) -> &'static str {
        let presented = Presented { hashes: vec![[n; 32]], request_id: by_id.map(|n| id(n.into())), asker };
        match compare(&self.0, &presented, at(second)) {
            CodeMatch::Right => "right",
            CodeMatch::Dead => "dead",
            CodeMatch::Wrong(left) => {
                for (id, tries) in left {
                    self.0.iter_mut().find(|code| code.request_id == id).unwrap().tries = tries;
                }
                "wrong"
            }
        }
    }
}

#[test]
fn a_code_lives_five_minutes_and_five_tries_for_each_way_to_present_it() {
    for (by_id, asker) in [(Some(1), HERE), (Some(1), THERE), (None, HERE), (None, THERE)] {
        let mut codes = Codes::default();
        codes.request(1, HERE, 0);
        assert_eq!(codes.present(1, by_id, asker, CODE_LIFE_S - 1), "right");
        assert_eq!(codes.present(1, by_id, asker, CODE_LIFE_S), "dead");
        assert_eq!([(); 5].map(|()| codes.present(9, by_id, asker, 0)), ["wrong"; 5]);
        assert_eq!(codes.present(1, by_id, asker, 0), "dead", "{by_id:?} {asker:?}");
    }
}

#[test]
fn what_a_stranger_asks_and_guesses_leaves_the_owner_alone() {
    let mut codes = Codes::default();
    codes.request(1, HERE, 0);
    for n in 2..=6 {
        codes.request(n, THERE, 1);
    }
    for _ in 0..30 {
        codes.present(9, None, THERE, 2);
        codes.present(9, None, [3; 16], 2);
        codes.present(9, Some(77), THERE, 2);
    }
    assert_eq!(codes.present(1, None, HERE, 3), "right", "by the address");
    assert_eq!(codes.present(1, Some(1), HERE, 3), "right", "by the id");
    assert_eq!(codes.present(1, Some(1), [4; 16], 3), "right", "by the id, from a third network");
    // Also a stranger behind the same address, who does not know the id.
    for n in 7..=11 {
        codes.request(n, HERE, 4);
    }
    for _ in 0..60 {
        codes.present(9, None, HERE, 5);
    }
    assert_eq!(codes.present(1, Some(1), HERE, 6), "right");
}

#[test]
fn without_an_id_only_the_newest_code_of_an_address_is_good_and_its_tries_add_up() {
    let mut codes = Codes::default();
    for n in 1..=5 {
        codes.request(n, HERE, 0);
    }
    assert_eq!(codes.present(4, None, HERE, 1), "wrong");
    assert_eq!([(); 24].map(|()| codes.present(9, None, HERE, 1)), ["wrong"; 24], "five for each code that was sent");
    assert_eq!(codes.present(5, None, HERE, 1), "dead");
    codes.request(6, HERE, 2);
    assert_eq!([(); 4].map(|()| codes.present(9, None, HERE, 2)), ["wrong"; 4]);
    assert_eq!(codes.present(6, None, HERE, 2), "right");
}

#[test]
fn elsewhere_without_an_id_every_code_of_the_phone_is_good() {
    let mut codes = Codes::default();
    codes.request(1, HERE, 0);
    codes.request(2, [5; 16], 1);
    assert_eq!(codes.present(1, None, THERE, 2), "right");
    assert_eq!(codes.present(2, None, THERE, 2), "right");
    assert_eq!([(); 5].map(|()| codes.present(9, None, THERE, 2)), ["wrong"; 5]);
    assert_eq!(codes.present(1, None, [6; 16], 2), "dead", "five for all other addresses together");
    codes.request(3, [5; 16], 3);
    assert_eq!(codes.present(1, None, THERE, 4), "wrong", "compared with the third only");
    assert_eq!(codes.present(3, None, THERE, 4), "right");
}

#[test]
fn a_code_is_six_digits_and_its_hash_depends_on_the_phone() {
    let world = World::seeded(at(0), 7);
    let tokens = Tokens::new(&world, &[7; 32]).unwrap();
    let (one, other) = (Phone::parse("+14155550132").unwrap(), Phone::parse("+14155550133").unwrap());
    for _ in 0..100 {
        let code = code(&world);
        assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
        assert_ne!(hash(&tokens, &one, &code), hash(&tokens, &other, &code));
        assert!(hashes(&tokens, &one, &code).contains(&hash(&tokens, &one, &code)));
    }
}
