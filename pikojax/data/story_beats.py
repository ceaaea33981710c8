"""Beats: the phrases that many plots share. One line is one way to say it; A, B and C are the slots the plot hands over.

`<open hero>` in a plot becomes one of the lines of "open". To add a wording, add a line.
"""

BEATS = {
    # Beginnings. A is the hero, B the friend.
    "open": """
Once upon a time, there was {A.a_trait} {A.kind} named {A}. {A.He} lived {A.lived}.
Once there was {A.a_kind} called {A}, who lived {A.lived}. {A} {A.habit}.
There once lived {A.a_trait} {A.kind} {A.lived}. {A.His} name was {A}, and {A.he} {A.habit}.
{A} was {A.a_trait} {A.kind} who {A.habit}.
{A} the {A.kind} lived {A.lived}. {A.He} was so {A.trait} that everybody knew {A.him} for it.
{A.A_kind} named {A} lived {A.lived}. Of all the {A.trait} folk around there, {A} was the most {A.trait}.
{A.Lived}, there lived {A.a_trait} {A.kind} called {A}.
This is the story of {A}, {A.a_trait} {A.kind} who {A.habit}.
""",
    "open2": """
{A} the {A.kind} and {B} the {B.kind} were [good|best|old] friends. {A} {A.habit}, while {B} {B.habit}.
{A} was {A.a_trait} {A.kind}. {A.His} best friend was {B}, {B.a_kind} who {B.habit}.
Once there were two friends: {A} the {A.kind}, who {A.habit}, and {B} the {B.kind}, who {B.habit}.
{A} the {A.kind} lived {A.lived}. {B} the {B.kind} lived {B.lived}. They met [every day|each morning|whenever they could].
Everybody knew {A} the {A.kind} and {B} the {B.kind}. {A} {A.habit}. {B} {B.habit}.
""",
    "neighbors": """
{A} the {A.kind} lived {A.lived}. Not far away lived {B}, {B.a_trait} {B.kind}.
{A} the {A.kind} and {B} the {B.kind} were neighbors. {A} {A.habit}.
There once was {A.a_trait} {A.kind} named {A}. {A.His} neighbor was {B.a_kind} called {B}, who {B.habit}.
Two neighbors shared one corner of the {A.land}: {A} the {A.kind} and {B} the {B.kind}. {A} {A.habit}.
""",
    "meet": """
{A} was {A.a_size} {A.kind}, and {B} was {B.a_size} {B.kind}. {A} lived {A.lived}, and {B} lived {B.lived}.
In the {A.land} lived {A}, {A.a_trait} {A.kind} who was fond of {A.food}, and {B}, {B.a_size} {B.kind} who liked {B.food} better.
[In a corner of the {A.land}|Somewhere in the {A.land}], the {A.size} {A.kind} {A} and the {B.size} {B.kind} {B} [ate {A.food} and played all day|were often seen together].
{A} the {A.kind} {A.habit}. {B} the {B.kind} {B.habit}. They had known each other [for years|since they were small].
""",
    "home": """
[With a light heart|Tired but happy|Humming a tune], {A} {A.moved} home.
{A} {A.moved} home and had a supper of {A.food}.
[After that|When it was all over], {A} {A.moved} home to bed.
""",
    # Feelings and thoughts.
    "happy": """
{A} was [so happy that {A.he} danced|very happy|happier than ever|full of joy].
{A} smiled from ear to ear.
{A}'s [face lit up|heart felt light|eyes shone].
{A} [cheered|laughed out loud|jumped for joy].
{A.He} [beamed|grinned|glowed with pride|could not stop smiling].
A warm feeling spread through {A}.
""",
    "sad": """
{A} [was very sad|felt terrible|wanted to cry|felt a lump in {A.his} throat].
A tear rolled down {A}'s [cheek|nose].
{A}'s heart sank.
{A} {A.react}.
{A} hung {A.his} head. [All the fun was gone.|What a day!|It was too much.]
"Oh no," {A} [said|cried|gasped|groaned]. {A.He} {A.react}.
""",
    "react": """
{A} {A.react}.
{A.He} {A.react}.
At first, {A} {A.react}.
""",
    "worry": """
{A} [began to worry|felt a little afraid|did not know what to do|had a bad feeling].
{A} {A.react}.
"What [now|shall I do|can I do]?" {A} {A.asked}.
{A}'s [knees shook|heart beat fast|tummy felt funny].
""",
    "idea": """
Then {A} had an idea.
[Suddenly|All at once], {A} knew what to do.
{A} [thought and thought|thought hard]. "I know!" {A.he} {A.said}.
Then {A.he} [had a clever thought|thought of a plan].
After a while, an idea popped into {A}'s head.
""",
    "ask_what": """
"What [is wrong|happened|is the matter], {B}?" {A} {A.asked}.
"Why [are you so sad|do you look so glum|the long face]?" {A} {A.asked}.
{A} [came by|passed by|heard it] and stopped. "Can I help?" {A.he} {A.asked}.
"[Oh dear|Goodness]," {A} {A.said}. "Tell me what happened."
""",
    "thanks": """
"Thank you, {B}!" {A} {A.said}.
"Thank you [so much|very much|a thousand times]," {A} {A.said}. "You are [very kind|a real friend|wonderful]."
{A} thanked {B} [again and again|with all {A.his} heart|with a big hug].
"You [saved the day|are the best|helped me so much], {B}," {A} {A.said}. "Thank you!"
{A} [hugged {B}|gave {B} a hug]. "I will [never forget this|remember this]," {A.he} {A.said}.
""",
    "welcome": """
"You are welcome," {A} {A.said}.
{A} smiled. "It was [nothing|easy|my pleasure]."
"[Any time|Do not mention it]," {A} {A.said}.
""",
    "praise": """
"Well done, {B}!" {A} {A.said}.
"I am [proud of|so proud of] you, {B}," {A} {A.said}.
"[Bravo|Wonderful|Splendid], {B}!" {A} {A.said}.
{A} [patted {B} on the back|nodded at {B}]. "[That was well done|I knew you could do it|You should be proud]," {A.he} {A.said}.
""",
    "sorry": """
"I am [so |very |truly |]sorry," {A} [said|said quietly|whispered].
"Please forgive me, {B}," {A} [said|said softly|begged].
{A} [swallowed hard|looked at the ground|blushed]. "I am sorry, {B}," {A.he} said.
"It was my fault," {A} [said|admitted]. "I am sorry."
""",
    "forgive": """
"I forgive you," {A} {A.said}.
{A} [smiled|nodded slowly]. "[Everyone makes mistakes|We all make mistakes|It is all right now]," {A.he} {A.said}.
"[It is all right|Let us forget it]," {A} {A.said}. "Thank you for telling me."
""",
    "together": """
The two of them [laughed|danced around|hugged each other|cheered].
{A} and {B} looked at each other and [laughed|smiled|grinned].
{A} nodded {A.adverb}, and {B} nodded, too.
{A} and {B} [sat down side by side|shook on it|walked on together].
""",
    # Endings.
    "end": """
{A} never forgot that day.
And that night, {A} fell asleep with a smile.
From that day on, {A} was [a little wiser|a little braver|known far and wide for it].
And {A} told the story [again and again|to anyone who would listen|at every birthday].
It had been a very good day.
And if you go there, you may still hear {A} [laugh|tell the tale|hum a little tune].
When {A} lay in bed that night, {A.he} thought, "[What a day|That was a good day]!"
{A} smiled about it for [a week|a long, long time|the rest of the day].
""",
    "end2": """
From then on, {A} and {B} were [the best of friends|always together|friends for life].
And {A} and {B} [met every day after that|still laugh about it today|often spoke of that day].
After that, whenever {A} needed {B}, {B} was there, and whenever {B} needed {A}, {A} was there.
That evening, {A} and {B} shared [a pot of tea|a warm supper|a bowl of soup] and talked until the stars came out.
{A} and {B} walked home together, [singing|chatting|happy and tired].
They stayed friends [forever|for the rest of their lives|through summer and winter].
And so {A} and {B} [had one more story to tell|stayed friends, as good friends do].
""",
    "night": """
Soon the moon rose, and {A} [was fast asleep|closed {A.his} eyes|slept until morning].
That night, {A} dreamed of [it|the day|far-off places|tomorrow].
The stars came out one by one. {A} yawned and snuggled into bed.
Then it was time for bed. "Good night," {A} {A.said}, and {A.he} was asleep before anyone could answer.
""",
    # Morals, by theme. Plots name the one that fits what happened.
    "moral_share": """
[Joy grows|Good things grow] when they are shared.
And {A} learned that sharing makes everything [better|sweeter|more fun].
A thing that is shared is never [really |]lost.
"Half of it with you is better than all of it alone," {A} {A.said}.
""",
    "moral_truth": """
The truth may be hard to say, but it is [light|easy] to carry.
{A} felt [much |]lighter. It is always better to tell the truth.
And {A} learned that a lie grows, but the truth sets you free.
From then on, {A} told the truth, even when it was hard.
""",
    "moral_patience": """
Good things take time.
{A} learned that [waiting is hard, but worth it|some things cannot be hurried].
"Slow is not the same as never," {A} {A.said}.
""",
    "moral_try": """
{A} learned that [everyone has to begin somewhere|nobody is good at something the first time|falling is part of learning].
If you keep trying, hard things become easy.
"I could not do it before," {A} {A.said}, "but now I can!"
A mistake is only a step on the way.
""",
    "moral_brave": """
Being brave does not mean that you are never scared.
{A} learned that [most scary things grow small when you look at them|fear is smallest when the light is on].
{A} was proud. {A.He} had been afraid, and {A.he} had done it anyway.
""",
    "moral_help": """
A little help can mean a lot.
{A} learned that it is [good|no shame] to ask for help.
No one can do everything alone.
""",
    "moral_kind": """
Kindness always finds its way back.
{A} learned that a [small|little] kindness can travel far.
A kind deed is never [wasted|lost].
""",
    "moral_small": """
Even the smallest friend can be a great help.
You do not have to be big to do big things.
{A} never again laughed at anyone for being small.
""",
    "moral_greed": """
{A} learned that [too much of a good thing is not good|enough is better than too much|whoever wants everything may end up with nothing].
From then on, {A} took only what {A.he} needed.
Greed makes [a full plate taste bitter|friends go away].
""",
    "moral_listen": """
{A} learned to listen first and act later.
From then on, when someone warned {A}, {A.he} listened.
Good advice is only good if you [take it|listen to it].
""",
    "moral_pride": """
{A} did not boast so much after that.
Whoever boasts the loudest often has the most to learn.
{A} learned that [nobody is the best at everything|it is better to be kind than to be first].
""",
    "moral_tidy": """
{A} learned that a thing in its place is [easily|quickly] found.
From then on, everything of {A.his} had a place of its own.
A tidy room saves a long search.
""",
    "moral_different": """
{A} learned that being different can be [a gift|a very good thing].
Everyone is good at something.
It takes all kinds to make a [world|good team].
""",
}

# Phrases with several wordings wherever they stand in a plot or a beat: (pattern, what to write for it).
PHRASES = [
    # A slot that begins a sentence: "the baker" becomes "The baker".
    (r"(?m)(^|[.!?] \[?)\{(\w+)\}", r"\1{\2.Name}"),
    (r"\{place\.sees\}", "[{place.sees}|{place.sees}|{place.sees} The air was full of {place.noise}.]"),
    # Contractions, when something follows that they can lean on.
    (r"\b([Cc])annot(?= [a-z{])", r"[\1annot|\1an't]"),
    (r"\b([Dd]o|[Dd]id|[Dd]oes|[Ww]as|[Ww]ere|[Ii]s|[Cc]ould|[Ww]ould|[Hh]ave|[Hh]ad) not(?= [a-z{])", r"[\1 not|\1n't]"),
    (r"(?<!of )\b(I|[Ww]e|[Yy]ou|[Tt]hey) will(?= [a-z])", r"[\1 will|\1'll]"),
    (r"\bI am(?= [a-z])", "[I am|I'm]"),
    (r"\b([Ii]t|[Tt]hat) is(?= [a-z])", r"[\1 is|\1's]"),
    (r"\b([Ww]e|[Tt]hey|[Yy]ou) are(?= [a-z])", r"[\1 are|\1're]"),
    (r"\b([Ll])et us(?= [a-z])", r"[\1et us|\1et's]"),
    (r"\bI have(?= (been|never|come|lost|seen|found))", "[I have|I've]"),
    # Synonyms.
    (r"\b([Ee])very(one|body)\b", r"[\1veryone|\1verybody]"),
    (r"\b([Nn])(obody|o one)\b", r"[\1obody|\1o one]"),
    (r"\b([Ss])ome(body|one)\b", r"[\1omebody|\1omeone]"),
    (r"\b(began|started) to\b", "[began to|started to]"),
    (r"\bat last\b", "[at last|finally]"),
    (r"\bAt last\b", "[At last|Finally|In the end]"),
    (r"(?<![Aa]ll )\bat once\b", "[at once|right away]"),
    (r"\bSoon\b(?= [{a-z])(?! it would)", "[Soon|Before long|A little later]"),
    (r"(?<=[.!?] )Then (?=\{)", "[Then|Then|After that,] "),
    (r"\bSuddenly\b", "[Suddenly|All of a sudden]"),
    (r"\bThe next day\b", "[The next day|The day after|The following day]"),
    (r"\bthe next day\b", "[the next day|the day after]"),
    (r"\bThe next morning\b", "[The next morning|The following morning|Early the next day]"),
    (r"\bIn the evening\b", "[In the evening|That evening|When evening came]"),
    (r"\bIn the morning\b", "[In the morning|When morning came|At sunrise]"),
    (r"\bOne day\b", "[One day|One morning|One afternoon]"),
    (r"\bOne night\b", "[One night|Late one night]"),
    (r"\blooked at\b", "[looked at|looked at|gazed at]"),
    (r"\blooked around\b", "[looked around|looked about]"),
    (r"(?<!only )(?<!just )\b(for a while|for a moment)\b", "[for a while|for a moment|for a little while]"),
    (r"\bBut (?=\{|the |it )", "[But|But|Yet] "),
    (r"\ball the way\b", "[all the way|the whole way]"),
    (r"\bwonderful\b", "[wonderful|marvelous|lovely]"),
    (r"\bterrible\b", "[terrible|dreadful]"),
    (r"\bbeautiful\b", "[beautiful|lovely]"),
    (r"\bas fast as\b", "[as fast as|as quickly as]"),
    (r"\bin the middle of\b", "in the [middle|very middle] of"),
    (r"\bagain and again\b", "[again and again|over and over]"),
    (r"\bhelped me\b", "[helped me|gave me a hand]"),
    (r"\bThey (?=(went|walked|ran|took|dug|built|searched|mixed|made|put|carried|followed|asked|called)\b)", "[They|Together they|So they] "),
    (r"\ball alone\b", "[all alone|quite alone]"),
    (r"\bstill nothing\b", "[still nothing|nothing]"),
    (r"\bshouted\b(?! and)", "[shouted|cried]"),
    (r"\bsmiled\b(?=[. ])", "[smiled|smiled|grinned]"),
    (r"\blaughed\b(?=[.,])", "[laughed|laughed|chuckled]"),
]
