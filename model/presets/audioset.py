"""Classes of AudioSet that say speech or music, with their places in a tagger's output.

Names and indices are those of AudioSet's `class_labels_indices.csv` (research.google.com/audioset,
CC BY 4.0), the order in which PANNs and others give their 527 classes. Music is labelled `Music`
whatever plays, so single instruments are not here: a bell or a rattle may well be what is wanted of
a Foley sound.
"""

SPEECH = {
    "Speech": 0,
    "Male speech, man speaking": 1,
    "Female speech, woman speaking": 2,
    "Child speech, kid speaking": 3,
    "Conversation": 4,
    "Narration, monologue": 5,
    "Speech synthesizer": 7,
}
MUSIC = {
    "Singing": 27,
    "Music": 137,
    "Song": 266,
    "Background music": 267,
    "Theme music": 268,
    "Jingle (music)": 269,
    "Soundtrack music": 270,
    "Video game music": 272,
}
