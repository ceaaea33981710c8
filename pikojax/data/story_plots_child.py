"""Plots about children: friends, fears, learning, school, seasons. The notation is explained in `stories.py`."""

PLOTS = """
== learning something hard | hero=child skill=skill helper=elder other=child
<open hero> More than anything, {hero.he} wanted to {skill.kind}.
[{hero} went outside and tried.|On Saturday {hero.he} tried it for the first time.|{other} could do it already, and it looked so easy.] {skill.Fail}. {hero} tried again. [It was no better.|It went wrong again.|The second time was even worse.] <sad hero>
"[I will never learn it|I give up|It is too hard for me]," {hero} [said|groaned|sighed]. {helper} had watched {hero.him} [for a while|from the window|closely] and knew what was wrong: {skill.why}. "[What should I do|How do you do it|What am I doing wrong]?" {hero} {hero.asked}. "{skill.Tip}," {helper} {helper.said}.
{hero} practiced [every day after school|all week|until it was dark]. On [Monday|the first day] it was hard. On [Wednesday|the third day] it was a little easier. And on [Sunday|the seventh day], {hero} {skill.win}! <happy hero>
[<praise helper hero>|"Look at me!" {hero} called. "I am {skill.doing}!"] <moral_try hero>

== afraid at night | hero=child!nervous+shy+brave+curious+dreamy fear=fear elder=elder
{fear.When}, {hero} lay in bed [with wide open eyes|and could not sleep|and listened]. Then {hero.he} noticed something: {fear.looks}! [{hero} pulled the blanket over {hero.his} head.|{hero.His} heart went boom, boom, boom.|{hero} hugged {hero.his} pillow tight.]
"{elder}!" {hero} called. {elder} came [in slippers|with messy hair|in a long nightshirt] and sat down on the bed. "I am scared," {hero} {hero.said}. "Something is there." "Then let us find out what it is," {elder} {elder.said}. "[A thing that you know is only half as scary.|Take my hand.|We will look together.]"
[With shaking knees|Hand in hand with {elder}|Very slowly], {hero} {fear.how}. And what was it? It was only {fear.truth}. {hero} [laughed with relief|began to giggle|let out a long breath].
"[So that was all|And I thought it was a monster]!" {hero} {hero.said}. <moral_brave hero> <night hero>

== the new child | hero=child!kind+friendly+curious+cheerful friend=child!shy+quiet+nervous toy=toy helper=worker:teacher animal=bug
A new {friend.kind} came to [school|class] one [Monday|rainy morning|day in autumn]. {friend.His} name was {friend}, and {friend.he} {friend.habit}. "[Who would like to sit next to {friend}?" {helper} asked|Please be kind to {friend}," {helper} said].
At [lunch|playtime], {friend} stood alone by the [wall|fence|old tree]. The others were playing [tag|hopscotch|football], and no one [asked {friend.him} to join|looked {friend.his} way]. {hero} saw it. {hero.He} remembered how it felt to be alone.
"Hello, I am {hero}," {hero} {hero.said}. "What are you looking at?" "It is {animal.a}," {friend} {friend.said}. "It is carrying a crumb home." {hero} knelt down and looked. "[It is strong|I never noticed that before|How wonderful]! Do you like {animal.s}?" "Very much," {friend} {friend.said}, and for the first time {friend.he} smiled.
They followed the {animal.n} all the way to [the wall|its hole|the roots of the tree]. The next day {friend} brought {toy.a}, and they played with {toy.him} together. [Soon others joined in.|Before long, half the class was playing with them.]
<end2 hero friend>

== the race | hero=child friend=child!proud prize=jewel
There was a race in the village every [spring|summer], and the prize was {prize.a}. {friend} {friend.habit}. "I will win, of course," {friend} {friend.said}. "Nobody is faster than me."
{hero} was not so fast. But {hero.he} had practiced [every evening|for weeks|with the neighbor's dog]. "[Ready, steady, go|One, two, three, go]!" called the judge.
{friend} shot ahead. After the bridge, {friend.he} looked back. {hero} was far behind. "I have plenty of time," {friend.he} thought, and {friend.he} [sat down to eat some cherries|stopped to wave at the crowd|lay down in the shade]. {hero} did not stop. {hero.He} ran and ran, past the [mill|well|church], past the [oak|pond|bakery], and past {friend}!
When {friend} looked up, it was too late. {hero} crossed the line [first|one step ahead]. "How did you do it?" {friend} asked. "I kept going," {hero} {hero.said}.
{hero} looked at the {prize.n}, and then at {friend}'s sad face. "[Shall we train together tomorrow|Let us run together next time]?" {hero.he} asked. {friend} nodded. <moral_pride friend>

== stage fright | hero=child!shy+nervous+quiet+dreamy friend=child instrument=instrument elder=elder
<open hero> {hero.He} played the {instrument.n}, but only when [nobody could hear it|the door was shut|{hero.he} was alone]. There {hero.he} played as beautifully as [a bird|running water|an angel].
One day {friend} [listened at the door|heard it through the window]. "That was lovely!" {friend} {friend.said}. "You must play at the [school concert|summer party|harvest feast]." {hero} turned [white|red]. "I cannot do that," {hero.he} {hero.said}. "[Everyone will stare at me.|What if I make a mistake?]"
"Look only at me," {friend} said, "and play for me, as if we were alone." {hero} [thought about it all night|did not promise anything], but in the end {hero.he} said yes.
On the big evening, {hero}'s [hands were cold|knees shook|mouth was dry]. The room was full. Then {hero.he} saw {friend} in the front row, smiling. {hero} took a deep breath and began. The first note trembled, but the second was clear, and soon {hero} forgot all the people.
When it was over, there was a long silence. Then everyone [clapped and stamped|stood up and cheered]. {elder} wiped away a tear. <praise friend hero> <moral_brave hero>

== the snowman | hero=child friend=child hat=clothes:hat+cap+scarf+mittens+gloves sky=sky:snowy elder=elder
{sky.Day} {hero} looked out of the window. {sky.look} "{friend}, come out!" {hero.he} called. "Let us build a snowman!"
[They rolled three balls,|First came the balls of snow,|They pushed and rolled until there were three balls,] a [big|huge] one, a middle one and a small one. {friend} found [two lumps of coal|two black stones] for the eyes, and {hero} brought a carrot for the nose. {elder} gave them {hat.a} for him. "[He looks like my old teacher|He looks like a king]," {friend} {friend.said}, and they laughed.
But after [three|five|six] days, the sun came out. Drip, drip, drip. The snowman grew [thinner and thinner|smaller and smaller]. <sad hero> ["He is leaving us!" {hero} {hero.said}.|"Our snowman is dying!" {hero} said.|"Where is he going?" {hero} asked.]
"He is only turning into water," {elder} {elder.said}. "The water will [run to the river and then to the sea|rise up into the clouds]. [And next winter it will come back as snow.|One day it will be snow again.|When it is cold, it will fall as snow once more.]" {hero} thought about that. {hero.He} took the {hat.n} and [hung {hat.him} on a nail by the door|put {hat.him} away in a drawer].
"[Good-bye|See you next year], snowman," {hero} {hero.said}. [<end2 hero friend>|<night hero>]

== the castle in the sand | hero=child friend=child!clever+careful place=place:beach find=place.finds part=/gate/bridge/stable/well/fence
{hero} and {friend} spent a whole day {place.at}. {place.sees} [They [dug and patted|carried bucket after bucket] and built a castle of wet sand|Out of wet sand they built a castle|They worked for hours on a castle of sand], with [four towers|a deep moat|many windows] and a {part}. [On the highest tower {hero} put|{hero} crowned the highest tower with|At the very top, {hero} placed] {find.a}.
"[It is too close to the water|We are building too near the waves|I think we should go farther up]," {friend} {friend.said}. "[The tide is coming in.|The water is rising.|Look how wet the sand is here.]" "[It will not come this far|The sea is far away|Nothing can happen]," {hero} {hero.said}. [But each wave came a little|Yet every wave rolled a little|And each new wave crept a little] [nearer|higher] than the last. [One washed|A wave washed|One of them washed] away the {part}. [The next one took a whole wall!|Another one swallowed half a wall!|A big one broke down the wall!]
<worry hero> "Quick, let us dig a ditch!" said {friend}. [They dug as fast as they could, but the sea was stronger.|They dug with both hands, but the sea was faster.|It was no use. The sea filled the ditch in a moment.] [Whoosh|Swish], [and the castle was only a smooth little hill|and nothing was left but a lump of sand|and the whole castle melted away]. The {find.n} was gone, too.
<sad hero> [Then {hero.he} saw something in the foam.|But what was that in the foam?|Then something rolled up to {hero.his} feet.] The sea had brought the {find.n} back! "[It wants us to start again|The sea gives, and the sea takes]," {friend} {friend.said}. "But this time, we will build it up there, [where the sand is dry on top|where no wave can reach it|behind that big rock]."
So they built a second castle, far from the waves. It was [even finer|twice as big], and it was still standing when they went home. <moral_listen hero>

== lost in the crowd | hero=child elder=elder place=place:market+station+harbor helper=worker:shop thing=clothes:hat+cap+scarf+sweater+raincoat+jacket+vest
{hero} was with {elder} {place.at}. {place.sees} "Hold my hand," {elder} had said. But {hero} saw [a parrot in a cage|a man with a monkey|a window full of cakes], and {hero.he} let go, only for a moment. When {hero.he} turned around, {elder} was gone.
[Everywhere there were legs and bags.|So many people, and not one face that {hero.he} knew!] <worry hero> [{hero.He} wanted to run.|{hero.He} was close to tears.|{hero.His} lip trembled.] But then {hero.he} remembered what {elder} always said: "[If you get lost, stay where you are, and ask someone who works there.|When you are lost, do not run. Ask somebody who works there.|If you cannot find me, stay, and ask for help.]"
Not far away stood {helper}. "Excuse me," {hero} {hero.said}. "I cannot find my {elder.kind}." "[Do not worry|We will find {elder.him}]," {helper} {helper.said}. "What does {elder.he} look like?" "{elder.He} is wearing {thing.a}," {hero} {hero.said}, "and {elder.he} has the kindest eyes."
{helper.Name} lifted {hero} up [onto a crate|onto a barrel|high]. [{hero} looked over all the heads.|From up there, {hero} could see everyone.|Now {hero} was taller than anybody.] "There!" {hero.he} cried. "I see the {thing}!" {elder} came running and [hugged {hero.him} tight|swept {hero.him} up].
"[You stayed and asked for help," said {elder}. "That was very clever."|You did just the right thing," said {elder}.|I am so glad that you asked for help," said {elder}.] They thanked {helper}, and {hero} held {elder}'s hand all the way home.

== a visit to the doctor | hero=child!nervous+brave+curious+stubborn elder=elder helper=worker:doctor treat=treat toy=toy
{hero} had [a sore throat|an aching ear|a bad cough]. "We are going to the doctor," said {elder}. "I am not sick anymore!" {hero} said quickly. But then {hero.he} had to [cough|sneeze].
At the clinic it smelled of soap. {hero} [held {hero.his} {toy} tightly|had {hero.his} {toy} in {hero.his} arms|hid behind {hero.his} {toy}]. "What will the doctor do?" {hero.he} {hero.asked}. "[{helper.He} will look and listen," said {elder}, "and then {helper.he} will know how to help."|First {helper.he} will find out what is wrong," said {elder}. "Then {helper.he} can help."|Nothing bad," said {elder}. "{helper.He} has helped many children."]
[{helper.Name} was very friendly.|{helper.Name} had cold hands and a warm smile.|{helper.Name} came in, humming.] "[Who is first, you or the {toy.n}?|And which of you is sick?|Shall I begin with your friend here?]" {helper.he} asked. {hero} pointed at the {toy.n}. So {helper} [listened to the {toy.n}|shone a tiny lamp on the {toy.n}] and shook {helper.his} head. "The {toy.n} needs a hug. And now you." {hero} opened {hero.his} mouth and said, "Aaah." It [did not hurt at all|tickled a little].
"[Two spoons of medicine a day|Tea with honey and three days in bed]," said {helper}, "and you will be well." And so it was. After [three|four] days, {hero} was [jumping on the bed|running in the yard] again. {elder} baked {treat.a} to celebrate. <moral_brave hero>

== a letter from far away | hero=child elder=elder:grand helper=worker:road friend=child gift=gift sum=sum
{hero}'s {elder.kind} lived far away, on the other side of the [mountains|sea]. [{hero} missed {elder.him}, so {hero.he} wrote a letter.|{hero} thought of {elder.him} every day. So {hero.he} sat down and wrote.|One evening, {hero} took paper and a pen.] "Dear {elder}," {hero.he} wrote, "[I can ride a bike now|I have lost a tooth|our cat has kittens]. When will I see you?" {hero.He} drew a [heart|sun|ship] at the bottom.
{helper.Name} [put the letter into a bag|took the letter along|stamped the letter]. "[It will take {sum.b} days to get there|It has to cross {sum.b} rivers]," {helper.he} said.
{hero} waited. [{hero.He} asked every morning, "Is there a letter for me?"|"Is there something for me?" {hero.he} asked each day.|Every morning {hero.he} ran to the gate and asked.] [And every morning {helper} said, "Not today."|"I am sorry, not today," {helper} answered.|But the bag was always empty.] {friend} waited with {hero.him}, [and they counted the days on their fingers. One, two, three...|which made the time go faster.|and they made a mark on the wall for each day.] After {sum.total} days, {helper} rang the bell [twice|loudly]. "A parcel for {hero}!"
Inside was {gift.a}, [and a letter in thin blue writing|and a sheet of paper, covered with neat lines|with a long letter wrapped around it]. "My dear {hero}," it said, "[I made this for you|I thought of you with every stitch|this is for you, because I miss you]. I am coming in [May|June|spring], [and I will stay for {sum.a} weeks|and I can stay for {sum.a} days|and we will have {sum.a} weeks together]." <happy hero>
{hero} read the letter [again and again|until {hero.he} knew it by heart] and put it under {hero.his} pillow. <night hero>

== the noisy instrument | hero=child!stubborn+cheerful+playful elder=elder instrument=instrument helper=worker:shop
<open hero> For {hero.his} birthday, {hero.he} got {instrument.a}. {hero} played [from morning to night|before breakfast and after supper]. [It sounded like|The noise was like|To the others, it was like] [a cat in a bucket|a door in the wind|a goose with a cold].
"[Please, not now|Must you play so early|My poor ears]!" said {elder}. {helper.Name} closed the window. [Even the dog|The poor dog|Out in the yard, the dog] [howled|put its paws over its ears]. <sad hero>
"[Do you all hate my music?|Does nobody like it?|Is it really so bad?]" {hero} asked. "[It could be lovely|That is not it]," {elder} {elder.said}, "but you play too [loudly|fast], and you never listen to yourself. [Play one small tune, and play it softly|Learn one song, one line at a time]." 
So {hero} went [to the barn|up to the attic|to the far end of the garden] [and practiced one little song. {hero.He} listened to every note.|and learned one little song, note by note.|and played one small tune until it was smooth.] A week later, {helper} came out of the {helper.shop}. "Who is playing that [lovely|sweet] song?" {helper.he} asked. "It is me," {hero} {hero.said}.
[In the evening, the windows stayed open.|Now all the windows were open.|Nobody closed a window that night.] {elder} hummed along, and the dog [slept through it|wagged its tail]. <moral_try hero>

== the riddle | hero=child elder=elder:grand riddle=riddle friend=child treat=treat
<open2 hero friend> One [rainy|long|snowy] evening, they sat with {elder} by the [fire|stove|window]. "Tell us a riddle!" {hero} {hero.said}.
{elder} [smiled|leaned back in the chair|folded {elder.his} hands]. "Whoever finds the answer gets the last {treat.n}. {riddle.Ask}?"
{hero} and {friend} thought hard. "{riddle.Wrong}?" {friend} {friend.asked}. {elder} laughed and shook {elder.his} head. "That is a good joke, but it is not the answer. I will give you a hint. {riddle.Hint}."
{hero} looked around the room. {hero.He} whispered something to {friend}, and {friend} nodded. "I know it!" {hero} {hero.said}. "{riddle.Answer}!" "That is right," {elder} {elder.said}. "How did you find it?" "[You said it yourself, in the hint|We thought of it together|I listened to the hint]," {hero} {hero.said}.
{hero} got the {treat}. {hero.He} broke it in two and gave one half to {friend}. [<moral_share hero>|"Now you tell me one," said {elder}.|<night hero>]

== the surprise | hero=child friend=child other=child gift=gift treat=treat
It was {hero}'s birthday, but nobody said a word about it. At school, {friend} [looked away|was in a hurry|whispered with {other}]. "Shall we play this afternoon?" {hero} {hero.asked}. "[I have no time today|Not today]," {friend} [said|mumbled]. "I am busy." {other} was busy, too.
<sad hero> "They have forgotten me," {hero.he} thought. {hero} walked home [slowly|alone in the rain|with {hero.his} hands in {hero.his} pockets] and kicked a stone along the road.
The house was dark and quiet. {hero} opened the door. "Surprise!" Lamps were lit, and there were {friend} and {other} with paper hats. There was a [tall|round] cake, and a plate of {treat.s}, and balloons [on every chair|up to the ceiling]. 
"So that is why you were whispering!" {hero} {hero.said}. "We had to keep the secret," {friend} {friend.said}. "[It was so hard|I almost told you three times]." Then {friend} gave {hero} {gift.a}, which {friend.he} had made [in secret|all alone]. <happy hero>
They [played and danced|ate and laughed] until [late|the stars came out]. <end hero>

== mixing colors | hero=child mix=mix friend=child helper=worker:painter
<open hero> {hero} and {friend} [were painting a picture for {helper}|were working on a big picture for {helper}|had promised {helper} a picture]. {hero} wanted to paint {mix.like}, [but there was no {mix.made} in the box|but the {mix.made} was all used up|but they had no {mix.made} at all]. "[Without {mix.made}, it will look wrong|I need {mix.made}|It will not look right without {mix.made}]," {hero} {hero.said}. 
"[Let us ask {helper}|{helper.Name} must have some]," {friend} {friend.said}. But {helper} had none, either. "[I never buy {mix.made}|You do not need to buy {mix.made}]," {helper.he} said. "[You can make it from two other colors. Try and see!|You can mix it yourselves. Can you find out how?|Two other colors are enough. Which two, do you think?]"
[They mixed and mixed.|They tried one thing and another.|They stirred this and that together.] The first try looked like [mud|old soup|nothing at all]. <react hero> "What about {mix.one} and {mix.two}?" {friend} {friend.asked}. {hero} took a little {mix.one} and a little {mix.two}, and stirred. [Slowly, the paint changed.|The color changed before their eyes.|And little by little, it turned.] "It is {mix.made}!" {hero} cried. "{mix.One} and {mix.two} make {mix.made}!"
[Now they could finish the picture. It was as {mix.made} as {mix.like}.|Now it really looked like {mix.like}, and the picture was done.|They painted until it was as {mix.made} as {mix.like}.] {helper.Name} hung it [by the door|over the desk|in the window]. "[Two good colors make a third, and two good friends make a picture|Well mixed]," {helper.he} said. <together hero friend>

== thin ice | hero=child!brave+stubborn+curious friend=child!careful+nervous+clever place=place:lake+river
{hero} and {friend} were playing {place.at}. {place.sees} It was [the end of winter|a cold day], and [a thin sheet of ice lay on the water|the water had begun to freeze|there was new ice along the bank]. "Let us walk on it!" {hero} {hero.said}.
"No," {friend} {friend.said}. "It is too thin. [Look, it is dark in the middle.|It froze only last night.|You can see the water moving under it.]" {hero} [laughed|did not believe it] and put one foot on the ice. [It went crack!|Crack! A white line ran across the ice.|There was a loud crack!] {hero.He} jumped back, but one boot was [full of|soaked with] icy water.
{friend} [pulled {hero} up the bank|grabbed {hero}'s sleeve and pulled|held out a branch and pulled {hero} back]. "[Are you hurt|Is your foot all right]?" {friend.he} {friend.asked}. "Only cold," {hero} said. {hero.His} teeth chattered. {friend} gave {hero.him} a dry sock and {friend.his} own scarf, [and they ran home to warm up by the stove|and they hurried home to a warm fire|and then they ran, so as not to freeze].
"You were not scared," {hero} {hero.said}, "you were right." "I was both," said {friend}. They [drank hot milk|laughed a little]. <moral_listen hero>
"""
