"""The rules, under codes that stay; docs/inspect-data.md shows the same table."""

from rlhf_forge.inspection.rule import Rule

RULES = (
    Rule(
        "PREF101",
        "unreadable",
        "error",
        True,
        "A line is no JSON, no UTF-8 or no object. Training stops at it, or skips and counts it "
        "(data.bad_records: skip). Where a JSON array, a CSV file or an archive is broken, what "
        "stands behind the place was not read, so nothing here speaks of it, and training stops.",
    ),
    Rule(
        "PREF102",
        "unusable-record",
        "error",
        True,
        "A side is missing, a role is unknown, an answer is not the assistant's. Training stops at "
        "such a record, or skips and counts it (data.bad_records: skip).",
    ),
    Rule(
        "PREF103",
        "contexts-differ",
        "error",
        True,
        "The two sides differ before their last turn, so they do not answer the same thing: the "
        "preference may be for the context. Such records are no pairs to training.",
    ),
    Rule(
        "PREF104",
        "roles-do-not-alternate",
        "warning",
        False,
        "Two turns of one role follow each other in the prompt. Many chat templates refuse it, "
        "others run the turns together.",
    ),
    Rule(
        "PREF105",
        "broken-text",
        "warning",
        False,
        "A text holds the replacement character U+FFFD, control characters, direction marks or "
        "remains of HTML (&amp;, <br>): it was decoded or scraped wrongly. A reward model "
        "learns to tell the sides by such traces.",
    ),
    Rule(
        "PREF106",
        "no-preference",
        "info",
        False,
        "A tie, both bad, equal scores: nobody said which answer is better. Such records are no "
        "pairs and are not trained on.",
    ),
    Rule(
        "PREF201",
        "identical-answers",
        "error",
        True,
        "Both answers are the same text. There is nothing to learn, and the loss of such a pair is "
        "a constant.",
    ),
    Rule(
        "PREF202",
        "identical-as-trained",
        "error",
        True,
        "The texts differ, but not after the chat template and the cut at --max_length tokens: "
        "where training truncates, the model is shown the same tokens twice, with opposite labels. "
        "rlhf_forge never truncates (see PREF205); other trainers do.",
    ),
    Rule(
        "PREF203",
        "empty-answer",
        "error",
        True,
        "An answer holds nothing but white space.",
    ),
    Rule(
        "PREF204",
        "differ-in-spacing-only",
        "warning",
        False,
        "The answers differ in white space or case alone. If that is not what people were asked to "
        "judge, the label is a coin's.",
    ),
    Rule(
        "PREF205",
        "too-long",
        "warning",
        False,
        "One side or both have more than --max_length tokens. A run with that data.max_length "
        "stops there, or skips and counts the pair.",
    ),
    Rule(
        "PREF206",
        "empty-prompt",
        "error",
        True,
        "The prompt is there and holds no text.",
    ),
    Rule(
        "PREF207",
        "score-contradicts-label",
        "warning",
        False,
        "The record's own scores put the rejected answer at or above the chosen one.",
    ),
    Rule(
        "PREF208",
        "machine-text",
        "warning",
        False,
        "An answer holds the error message of a service, or says which product wrote it. A policy "
        "trained on it says the same.",
    ),
    Rule(
        "PREF209",
        "nearly-identical-answers",
        "info",
        False,
        "The answers share at least 0.8 of their word triples. Such pairs teach a fine distinction "
        "if the label is right, and noise if not: read some.",
    ),
    Rule(
        "PREF210",
        "answer-repeats-a-turn",
        "warning",
        False,
        "An answer is, word for word, an earlier turn of the conversation.",
    ),
    Rule(
        "PREF301",
        "duplicate",
        "warning",
        True,
        "An earlier record has the same prompt, chosen and rejected answer, but for case and white "
        "space. It counts twice in training, and where one of them is held out it is no test.",
    ),
    Rule(
        "PREF302",
        "near-duplicate",
        "warning",
        True,
        "An earlier record has nearly the same prompt, chosen and rejected answer: they share at "
        "least 0.8 of their word triples (Jaccard). Candidates come from MinHash, and each is "
        "verified exactly.",
    ),
    Rule(
        "PREF303",
        "contradiction",
        "warning",
        True,
        "Another record has the same prompt and the same two answers with the opposite label. One "
        "of them is wrong, or people disagree; a cleaned copy keeps neither.",
    ),
    Rule(
        "PREF304",
        "leaked-prompt",
        "error",
        True,
        "The prompt stands in the held-out data too, but for case and white space. Accuracy there "
        "is then partly memory. rlhf_forge's own split is by prompt and never does it.",
    ),
    Rule(
        "PREF305",
        "nearly-leaked-prompt",
        "warning",
        False,
        "A held-out prompt shares at least 0.8 of its word triples with this one.",
    ),
    Rule(
        "PREF306",
        "repeated-prompt",
        "info",
        False,
        "An earlier record has the same prompt with other answers. That is how rankings come; it "
        "means that the pairs are fewer independent judgements than they seem.",
    ),
    Rule(
        "PREF307",
        "nearly-repeated-prompt",
        "info",
        False,
        "An earlier prompt of the same side shares at least 0.8 of its word triples with this one.",
    ),
    Rule(
        "PREF401",
        "length-decides",
        "warning",
        False,
        "Whoever always prefers the longer answer (or always the shorter) agrees with more than "
        "60 % of the labels, by the near end of the 95 % interval. A reward model will learn it, "
        "and PPO will write at length (or hardly at all). Below 30 pairs nothing is said.",
    ),
    Rule(
        "PREF402",
        "style-decides",
        "warning",
        False,
        "Where just one of the answers refuses, uses markdown, or begins with a stock phrase, that "
        "alone predicts more than 60 % of the labels, by the near end of the interval. Where fewer "
        "than 30 pairs differ in a thing, nothing is said of it.",
    ),
    Rule(
        "PREF403",
        "likely-flipped",
        "warning",
        False,
        "A model that never saw the pair puts less than 0.1 on its label. By default the model is "
        "a logistic regression on words, fitted on the other folds: cheap and weak; --reward "
        "takes a reward model. Read these before anything else; many are hard, not wrong. Below "
        "200 pairs no model is asked.",
    ),
    Rule(
        "PREF501",
        "role-marker",
        "warning",
        False,
        "A text holds a marker of a chat template ([INST], <|im_start|>, \\n\\nHuman:, ### "
        "Response:): the turn was cut in the wrong place, or rendered before. A policy trained on "
        "it writes the other side's turns.",
    ),
    Rule(
        "PREF502",
        "typed-begin-token",
        "warning",
        False,
        "A text begins with a begin token (<s>, <|begin_of_text|>) that was typed into it. "
        "Trainers that tokenize such text give the model two begin tokens; rlhf_forge keeps it as "
        "the text it is.",
    ),
    Rule(
        "PREF503",
        "source-without-end",
        "warning",
        False,
        "The answers of a source do not end as those of the others do: they lack the end token "
        "that the others carry, or break off in the middle of a sentence. The reward model learns "
        "to tell the source by it, and the policy never to end. Asked of sources with 30 pairs or "
        "more, where all others together have as many.",
    ),
)
BY_CODE = {rule.code: rule for rule in RULES}
