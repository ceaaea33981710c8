"""Plots at home: lost and found, kitchens, mending, making, truth and lies. The notation is explained in `stories.py`."""

PLOTS = """
== the lost toy | hero=child elder=elder toy=toy box=box spot=furniture place=place:out sky=sky:dry
<open hero> {hero.His} favorite thing in the world was {toy.a}.
{sky.Day} {hero} took the {toy} {place.to} and played there until [supper|it was time to eat|the church bell rang]. {hero.He} was hungry and ran
 home [in a hurry|at once|as fast as {hero.he} could]. At bedtime, the {toy} was gone!
[{hero.He} looked in the {box}. Nothing. {hero.He} looked behind the {spot}. Only dust.|{hero.He} searched the {box}, but it was empty. {hero.He} pulled the {spot}
 away from the wall, but there was only an old sock.] <sad hero>
"When did you last have {toy.him}?" asked {elder}. {hero} thought about it. "I had {toy.him} {place.at}," {hero.he} {hero.said}. "[I was so hungry that I ran
 home without {toy.him}|Then I smelled supper, and I forgot {toy.him}]!"
They [took a lantern and|put on their shoes and] went back {place.to}. {place.sees} And there the {toy.n} {toy.was}, [right where {hero} had left {toy.him}|waiting
 in the grass|exactly where {hero} had been playing]. <happy hero>
[<thanks hero elder>|"Next time I will look around before I go," {hero} {hero.said}.] [<night hero>|<end hero>]

== two friends and one toy | hero=child friend=child toy=toy place=place:out sky=sky:dry
<open2 hero friend>
{sky.Day} {hero} brought {toy.a} {place.to}. "May I [have a turn|play with {toy.him}, too|try {toy.him}]?" {friend} {friend.asked}. "No, {toy.it} {toy.is} mine," {hero} {hero.said}, and
 held the {toy.n} tight.
So {friend} [sat alone on a bench|walked away|played alone with a stick]. {hero} played alone, too. But [there was nobody to laugh with|it was not much fun|after ten minutes {hero.he} was bored].
 <react hero>
{hero} went over to {friend}. <sorry hero friend> "[You can have the first turn.|Let us take turns.|Shall we play together?]" <forgive friend>
They [invented a new game|made up three new games|took turns until the sun went down], and {friend} [showed {hero} a trick|laughed so much that {friend.he} got hiccups|thought of a funny name for the {toy.n}].
 [<together hero friend>|<happy hero>]
[<moral_share hero>|<end2 hero friend>]

== the broken pot | hero=child!nervous+playful+silly+shy elder=elder ball=ball flower=flower
<open hero> [On the window sill stood|By the window stood|On the small round table stood] a clay pot with {flower.a}. {elder} [loved it|watered it every morning|had painted the pot long ago].
"No ball games in the house," {elder} always said. But one day it was raining, and {hero} was bored. {hero.He} threw {ball.a} against the wall, [once, twice|softly at first, and then harder]. [Crash|Smash]! The pot [fell to the floor|broke into
 a hundred pieces|lay in pieces].
<worry hero> [{hero.He} pushed the pieces under the rug.|{hero.He} hid the {ball.n} behind the curtain.|{hero.He} thought, "I could say that it was the cat."]
[When {elder} came in, {hero.he} saw the dirt on the floor.|Then {elder} came in and looked at the floor.|{elder} had heard the noise and came running.] "What happened here?" {elder} asked. {hero} [wanted to blame the cat|opened {hero.his} mouth and closed it again|looked at the cat, and the cat looked
 back]. Then {hero.he} told the truth. "I played ball in the house. [I am so sorry|I am sorry|Please forgive me]."
{elder} was quiet for a moment. "I am sad about the pot," {elder} said, "but I am glad that you told me." Together they [swept the floor|picked up the pieces] and planted the {flower.n} in [an old teapot|a tin can|a big cup].
[<moral_truth hero>|The {flower.n} grew even better there. <moral_truth hero>]

== the boy or girl who cried wolf | hero=child!playful+silly elder=elder worker=worker:land
<open hero> {hero.His} job was to watch the [sheep|geese|goats] on the hill. [It was a boring job.|Nothing ever happened there.]
One day {hero} shouted, "Wolf! Wolf! Help!" {elder} and {worker} [dropped everything and|grabbed sticks and] ran up the hill. [But there was no wolf.|But there was nothing to see.|They looked everywhere. No wolf!] {hero} [laughed until {hero.his} tummy hurt|rolled in the grass with laughter].
 "I fooled you!" {hero.he} {hero.said}.
[The next day|Two days later], {hero} did it again. [Again they ran, and again there was no wolf.|Once more they came running, and once more for nothing.|They came again, out of breath, and found only {hero}, laughing.] "[If you lie, nobody will believe you when you tell the truth|One day you will need us, and we will not come|A liar is not believed, even when it is true]," {elder} [warned|said].
Then a real wolf crept out of the woods, gray and [hungry|thin]. "Wolf! Wolf!" {hero} cried. "[Please help! This time it is true!|Come quickly! It is a real one!|I am not joking!]" But [nobody came|everyone thought that it was another joke|no one even looked up]. {hero} had to [bang two pans together|throw stones and
 shout] until the wolf ran off. One [sheep|lamb] was [never found|gone].
{hero} walked home and cried. <sorry hero elder> "[It takes a long time to win back trust|Trust is quickly lost and slowly found|I want to believe you, but you must earn it]," {elder} said[ sadly|]. {hero} never told such a lie again, and [little by little|after many weeks|slowly], the others believed {hero.him} once more.

== the missing ingredient | hero=child elder=elder dish=dish helper=worker sky=sky
{sky.Day} {hero} and {elder} wanted to make {dish.dish_a}. [{sky.look} It was a perfect day for cooking.|"I am so hungry," {hero} {hero.said}.|{hero} tied on an apron.]
They put {dish.first} and {dish.second} on the table. Then {elder} opened the cupboard. "Oh no, we have no {dish.missing}!" {elder.he} [said|cried]. [They tried it without, and it was {dish.bad}.|"Without {dish.missing}, it will be {dish.bad}."] <sad hero>
"I will ask {helper}," {hero} {hero.said}, and {hero.he} [ran|hurried|skipped] down the road to the {helper.shop}. There, {helper} {helper.busy}.
"Excuse me, do you have some {dish.missing}?" {hero} asked. "[Yes, I do|I have plenty|Take as much as you need]," {helper} {helper.said}, "if I may have a [taste|bite|spoonful] later." "[It is a deal|That is only fair]," {hero} {hero.said}.
[Back home|Soon], they {dish.work}. The whole [house|kitchen|street] smelled of {dish.smell}. {hero} carried a [big|full] plate to {helper}, as {hero.he} had promised. "[Delicious|The best I ever had|Mmm]!" said {helper}.
[<moral_share hero>|<happy hero>|<end hero>]

== salt or sugar | hero=child!impatient+proud elder=elder dish=dish friend=child
<open hero> One [day|Sunday|rainy day], {hero} wanted to surprise {elder} with {dish.dish_a}. "I do not need a recipe," {hero.he} {hero.said}.
On the shelf stood two white jars. [One held sugar, and the other held salt.|There was sugar in one of them, and salt in the other.|Sugar was in the left one, and salt was in the right one.] "[Read the label first|Taste it first|I am not sure that is sugar]," {friend} {friend.said}. But {hero} [did not listen|was in a hurry|was too proud to listen] and poured in a whole cup.
They {dish.work}. It smelled of {dish.smell}, [and it looked wonderful|and nobody could wait|and it looked as good as in a book]. {elder} took a big bite. {elder.His} eyes [grew wide|watered]. [{elder.He} drank one glass of water, and then another.|{elder.He} reached for the water jug.|{elder.He} swallowed with a strange face.] "It is a little bit salty," {elder.he} said.
{hero} tasted it and [made a face|coughed|spat it out]. [It was as salty as the sea!|It tasted like sea water!|Salt! Nothing but salt!] <react hero> "I took the wrong jar," {hero.he} [said|admitted]. "{friend} warned me, and I did not listen."
So {hero} wrote [big labels|clear labels] for the jars, and they began again. This time {hero.he} [tasted everything first|asked {friend} to read the recipe aloud]. The result was [perfect|just right|so good that nothing was left].
[<moral_listen hero>|<end2 hero friend>]

== the right tool | hero=child job=job helper=worker@job.owner
<open hero>
One day, {job.start}. Then it happened: {job.trouble}. {job.Fail}.
<worry hero> "[Maybe|Perhaps] someone in [town|the village] can help," {hero.he} thought.
{hero.He} {hero.moved} to {helper}, who {helper.busy}. "[Please, can|Can] you help me?" {hero.he} {hero.asked}.
"[Let me think|Hm|I see]," said {helper}. "What you need is {job.tool_a}. I have one right here. [Bring it back when you are done.|Take good care of it.|You may borrow it until tonight.]"
{hero} [carried the {job.tool} back|thanked {helper} and took the {job.tool}]. Then {hero.he} {job.use}. And {job.done}! <happy hero>
In the evening, {hero} brought the {job.tool} back, [clean and shiny|wiped clean|with a bunch of flowers]. <thanks hero helper> [<welcome helper>|<moral_help hero>|]

== something made by hand | hero=child elder=elder craft=craft friend=child
Soon it would be {elder}'s birthday. {hero} had no money for a present, [only a button and a piece of string in {hero.his} pocket|not even one coin]. <worry hero>
"You could make something," {friend} {friend.said}. "[Things made by hand are the best.|I can help you.|What about a {craft.kind}?]" {hero} liked that. {hero.He} wanted to make a {craft.kind}.
They took {craft.from}. They {craft.steps} [all afternoon|for two whole days|until their fingers were sore]. But then something went wrong: {craft.spoiled}. <sad hero>
"[Do not give up|Wait|It is not ruined]," {friend} {friend.said}. {hero} looked at it [from all sides|for a long time]. Then {hero.he} {craft.fix}. "Look, now it is even [better|more special]!"
On the birthday, {elder} opened the paper. "[A {craft.kind}! Did you make this yourself|What a wonderful {craft.kind}! Who made it]?" {elder} asked. "{friend} helped me," {hero} {hero.said}. [{elder} hugged them both.|{elder} put the {craft.kind} where everyone could see it.]
"A present made with love is [worth more than gold|the finest of all]," {elder} {elder.said}.

== the messy room | hero=child!messy elder=elder thing=clothes:jacket+sweater+boots+raincoat+mittens+scarf+shirt+cap+hat toy=toy
<open hero> In {hero.his} room there were [books in the bed|shoes on the shelf|cups under the chair] and [socks on the lamp|crumbs in the drawers|pencils in the boots]. "[Please tidy up|You should clean up]," said {elder}. "Tomorrow," {hero} {hero.said}. {hero.He} said that every day.
One morning, [{hero}'s class was going to the zoo|there was a trip to the museum|the circus was in town]. "Put on your {thing}, and let us go!" {elder} called. But where {thing.was} {hero.his} {thing}?
{hero} threw {hero.his} things to the left and to the right. {hero.He} found [half a sandwich|three spoons|a very old apple] and even the {toy} that {hero.he} had missed for [weeks|months]. But {hero.he} did not find the {thing.n}. The [bus|clock] did not wait. When {hero} [came running|found {thing.him} at last, inside a pillow], it was too late. <sad hero>
[That afternoon|Afterward], {hero} looked around. "This cannot go on," {hero.he} {hero.said}. {elder} helped {hero.him}. Books went to the shelf, shoes went under the bench, and toys went into the chest. [It took three hours.|It took until supper.]
The next morning, {hero} found everything in [one minute|a moment]. <moral_tidy hero>

== a hole in the bag | hero=child elder=elder fruit=fruit sum=sum place=place:out
{elder} asked {hero} to bring {fruit.s} from the market. {hero} bought {sum.total} {fruit.s}, put them into a [paper|cloth|string] bag, and set off for home.
[{hero.He} swung the bag and sang.|{hero.He} stopped to look at a parade.|{hero.He} hummed a tune.] But there was a small hole in the bag, and {hero} did not see it. On the way, one {fruit.n} after another fell out.
At home, {elder} counted them. "I see only {sum.a} {fruit.s}," {elder.he} said. "[How many did you buy|How many were there]?" "I bought {sum.total}," {hero} {hero.said}. "{sum.Total} take away {sum.a} is {sum.b}. So {sum.b} {fruit.s} are missing!" {hero} {hero.react}.
Then {hero.he} found the hole. "[They must be on the road|They fell out on the way|Now I know where they are]!" {hero.he} {hero.said}, and {hero.he} walked all the way back. {hero.He} looked [left and right|in the ditch and under the bushes]. One, two, three... {hero.He} picked up {fruit.s} until [not one was missing|the bag was full again].
"{sum.A} and {sum.b} make {sum.total}," {hero} {hero.said}. "Now we have them all." {elder} [sewed up the hole|mended the bag], and then they [made a fruit salad|baked a cake|shared the nicest one].

== the stand by the road | hero=child friend=child sum=sum helper=worker helper2=worker
It was a [hot|burning hot] summer day. {hero} and {friend} [sat in the shade|wished for a cold drink]. "Everybody is thirsty," {hero} {hero.said}. "Let us sell lemonade!" "[What a good idea|Yes, let us do that|I will squeeze the lemons]," {friend} {friend.said}.
They squeezed the lemons and stirred in sugar. {friend} painted a sign, and {hero} [carried the table|set out the cups|rang a bell]. "A cup for one coin!" it said.
First came {helper}. "[I am so thirsty|What a hot day]," said {helper}. "I will take {sum.a} cups, for all [my helpers|my friends], too." Then came {helper2}, who wanted {sum.b} cups. 
"How many coins do we have?" {friend} {friend.asked}. {hero} counted. "{sum.A} from {helper}, and {sum.b} from {helper2}. That makes {sum.total}!" <together hero friend>
[Just then, a small child came by, who had no coin at all.|A little child stood there and looked at the cups, but had no money.] {hero} poured one more cup. "This one is free," {hero.he} {hero.said}. [It was the best cup of the whole day.|The child drank it up and smiled.]
In the evening, they [bought a big melon with the coins|put the coins in a jar|shared the coins fairly]. [<end2 hero friend>|<moral_share hero>]

== the seed | hero=child!impatient elder=elder crop=crop
<open hero> In spring, {elder} gave {hero.him} a tiny seed. "Plant it, water it and wait," said {elder}. "It will be {crop.a_n}."
{hero} dug a hole [with an old spoon|with {hero.his} finger], put the seed in and poured water over it. Then {hero.he} waited for [five|ten] minutes. Nothing happened. "It does not work!" {hero} {hero.said}.
The next day there was still nothing. {hero} wanted to [dig it up and look|pull at the earth|shout at the seed]. "[If you dig it up, it cannot grow|Roots come first, and you cannot see them]," {elder} {elder.said}. "Water it and be patient."
So {hero} watered it every morning. One week went by, and then two. [{hero} scared away the crows.|{hero} pulled out the weeds.|{hero} put up a little fence against the snails.] Then, one day, there was a green [tip|dot] in the black earth. <happy hero>
The plant drank the rain and the sun and grew all summer. In [autumn|September], {hero} picked {crop.a}. They made [soup|a pot of stew|a big stew] of it, and {hero} had [never tasted anything so good|two helpings]. <moral_patience hero>

== the borrowed thing | hero=child!careful+shy+nervous+kind friend=child toy=toy:kite+drum+robot+wagon+scooter+pinwheel+puppet+yo-yo place=place:out
{friend} had {toy.a}, [and it was brand new|a present from far away]. "May I borrow {toy.him} until tomorrow?" {hero} asked. "Yes, but please be careful," {friend} {friend.said}. "I promise," {hero} {hero.said}.
{hero} took {toy.him} {place.to}. {place.sees} {hero.He} laid the {toy.n} in the grass, [only for a minute|just for a moment], and [chased a butterfly|went to look at a nest]. Then a [dog|cart] came along. Crack! The {toy.n} {toy.was} broken.
<worry hero> {hero.He} could [hide the pieces|say that someone had stolen {toy.him}|stay at home and never see {friend} again]. But {friend} trusted {hero.him}. So {hero.he} took the pieces and knocked at {friend}'s door.
"I broke it," {hero} [said|said in a small voice]. "I left it on the ground, and I was not careful. I am sorry." {friend} [was silent for a while|looked at the pieces and sniffed]. {hero} held out {hero.his} own [savings|money box]. "I want to make it right."
"Keep your money," {friend} said[ at last|]. "Let us mend it together." With glue and string and patience, they did. [There was a crack, but it hardly showed.|It was not like new, but it worked.] "You told me the truth," {friend} said, "so you may borrow my things again."

== the puddle and the puppy | hero=child elder=elder toy=ball sky=sky:wet pet=pet
{hero} had a [young|little|clumsy] puppy called {pet}. {pet.He} liked three things: bones, mud and more mud.
{sky.Day} {pet} ran out through the open gate. [Splash|Plop]! {pet.He} rolled in the [deepest|biggest|blackest] puddle. When {pet.he} came home, {pet.he} was brown from nose to tail, and there were paw prints on the [carpet|sofa|clean floor]. "{pet} needs a bath!" said {elder}.
But {pet} did not want a bath. {pet.He} hid [under the bed|behind the stove|in the laundry]. {hero} pulled, but {pet} only pulled back. <idea hero>
{hero.He} rolled the {toy} across the floor, slowly, right into the tub. {pet} loved that ball. {pet.He} jumped after it, and there {pet.he} sat, in warm water with a hat of foam. {hero} scrubbed and sang. [Soap flew everywhere.|There were bubbles up to the ceiling.]
Then {pet} shook {pet.himself}. Now {pet} was dry, but {hero} and {elder} were dripping wet! <happy hero> "Next time," said {elder}, "we will [close the gate|shut the gate when it rains]."
"""
