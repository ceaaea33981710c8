"""The small worlds of the stories: what belongs together. Tables read by `story_tables.py` (which explains the notation).

A place has the things found there, a weather its consequences, a problem the tool that solves it, a dish its ingredients:
a plot that draws one row gets facts that fit each other. Cells may use the slot `hero` (and `friend` where the plot has one).
"""

PLACES = """
kind | tags | at | to | finds | sees | noise
beach | out water | at the beach / by the sea | to the beach / down to the sea | white pink spiral shell / smooth gray striped pebble / dried orange starfish=starfish / old green bottle / twisted gray stick | The waves rolled in and out. / Gulls circled over the foam. / The sand was warm under every toe. | the hush of the waves
forest | out | in the forest / under the tall trees | to the forest / into the woods | brown heavy pine_cone / red spotted mushroom / gray soft feather / golden crisp leaf=leaves / smooth acorn | Sunlight fell through the branches in stripes. / The ferns smelled of rain. / A woodpecker tapped far away. | the rustle of leaves
park | out | in the park / near the fountain in the park | to the park | shiny brown chestnut / lost silver coin / @color glass marble / long gray feather / @color button | Pigeons strolled around the fountain. / An ice cream cart stood at the gate. / Joggers puffed along the path. | the splash of the fountain
garden | out | in the garden / behind the house | out to the garden / into the garden | empty striped snail_shell / tiny blue eggshell / old rusty spoon / @color button / white smooth stone | Bees bumped from flower to flower. / The beans were climbing their poles. / The grass needed cutting. | the buzz of bees
meadow | out | in the meadow / in the long grass | to the meadow / across the meadow | four-leaved lucky clover / white soft feather / empty gray cocoon / smooth round stone / old copper bell | Butterflies danced over the clover. / The grass was as high as a fence. / A lark sang somewhere above. | the song of a lark
river | out water | by the river / on the riverbank | to the river / down to the river | flat gray stone / tiny silver fishbone / cracked old oar / long green reed / blue smooth pebble | The water ran fast and clear. / Dragonflies hovered above the reeds. / A fish jumped and was gone. | the gurgle of the water
hill | out | on the hill / at the top of the hill | up the hill | strange black stone / white sharp thorn / old rusty horseshoe / long brown feather / purple thistle | From up there the houses looked like toys. / The wind combed the grass. / Sheep dotted the slopes. | the howl of the wind
farm | out | on the farm / behind the barn | to the farm | speckled warm egg / rusty old nail / golden straw / bent old horseshoe / brown striped feather | The rooster strutted on the fence. / Hay was piled up to the roof. / A tractor hummed in the field. | the clucking of the hens
playground | out | at the playground / beside the swings | to the playground | @color marble / lost @color mitten / bent copper coin / @color button / blue broken whistle | The swings creaked back and forth. / The slide shone like silver. / Someone had drawn a hopscotch on the ground. | the creak of the swings
lake | out water | by the lake / on the little pier | to the lake / out to the lake | smooth white stone / black shiny mussel / silver fishhook / long green feather / twisted brown root | The lake lay as flat as a mirror. / A rowboat rocked at the pier. / Two swans drifted by. | the lapping of the lake
market | town | at the market / between the market stalls | to the market | lost copper coin / fallen red ribbon / empty @color tin / @color button / folded old map | Sellers shouted their prices. / It smelled of bread, fish and flowers. / Baskets of peppers stood in rows. | the shouts of the sellers
library | in | in the library / between the tall shelves | to the library | forgotten leather bookmark / folded old letter / silver pencil / @color ribbon / dusty old map | It was so quiet that the clock seemed loud. / The shelves reached to the ceiling. / A lamp made a yellow circle on the desk. | the turning of pages
attic | in | in the attic / up under the roof | up to the attic | dusty old trunk / faded old photograph / cracked mirror / brass old telescope / moth-eaten hat | Dust floated in a thin beam of light. / Cobwebs hung in the corners. / The floorboards groaned. | the groan of the floorboards
museum | in | in the museum / under the dinosaur bones | to the museum | lost paper ticket / tiny silver button / folded old map / @color mitten / shiny brass coin | A whale skeleton hung from the ceiling. / A knight in armor stood by the door. / The floor was so shiny that you could see your face. | the echo of footsteps
harbor | town water | at the harbor / on the dock | to the harbor | coiled old rope / rusty tiny anchor / white curved shell / green glass bottle / gray gull feather | Masts swayed like a forest without leaves. / It smelled of salt and tar. / A ferry tooted its horn. | the cries of the gulls
station | town | at the train station / on the platform | to the train station | lost paper ticket / single @color glove / old leather suitcase / shiny coin / forgotten @color umbrella | The big clock clicked from minute to minute. / Suitcases rattled over the stones. / A whistle blew twice. | the hiss of the brakes
valley | out | in the valley / beside the old mill | down into the valley | blue striped pebble / empty bird_nest / crooked old stick / yellow dry leaf=leaves / old wooden wheel | Mist lay over the fields like milk. / A cowbell rang on the slope. / The mill wheel turned and dripped. | the clatter of the mill
cave | out | in the cave / at the mouth of the cave | to the cave | glittering purple crystal / white old bone / smooth black stone / gray strange feather / rusty old lantern | Water dripped from the roof. / The walls were cold and wet. / Their own voices came back to them. | the drip of the water
orchard | out | in the orchard / under the apple trees | to the orchard | fallen red apple / gray empty nest / crooked little twig / bright green leaf=leaves / lost old glove | Ladders leaned against the trunks. / Wasps hummed over the fallen fruit. / The branches bent with apples. | the thump of falling apples
"""

SKIES = """
kind | tags | day | look
sunny | dry warm | One sunny morning, / One bright afternoon, / On a warm, sunny day, / One golden afternoon, / On the first sunny day of spring, | The sun shone on every roof. / There was not a cloud in the sky. / The sky was as blue as paint.
windy | dry wind | One windy morning, / On a windy day in autumn, / One breezy afternoon, / On a day when the wind pulled at every door, | The trees bent and waved. / Leaves raced down the road. / Clouds hurried across the sky.
rainy | wet | One rainy morning, / One wet afternoon, / On a gray and rainy day, / One drizzly Sunday, | Rain drummed on the roof. / Puddles grew in the road. / Drops chased each other down the window.
snowy | cold | One snowy morning, / One white winter day, / On the coldest day of January, / One frosty morning, | Snow covered every fence. / Icicles hung from the gutter. / The world was white and still.
foggy | wet dim | One foggy morning, / On a gray and misty day, / One foggy evening in November, | The fog hid even the nearest tree. / Everything looked soft and gray. / Lamps glowed like little moons.
hot | dry warm | One hot afternoon, / On the hottest day of July, / One lazy summer day, / On a day too hot for shoes, | The air shimmered above the road. / Even the flies were too tired to buzz. / Every dog lay in the shade.
mild | dry | One quiet morning, / One Saturday morning, / One fine Monday, / One afternoon in May, / Early one morning, / One day after lunch, / On the last day of September, | A light breeze was blowing. / The birds were busy in the hedge. / It was neither warm nor cold.
"""

# A thing in trouble, why, what fails, who has the tool, and how the tool helps. The plot has a hero and an owner.
JOBS = """
kind | start | trouble | fail | tool | owner | use | done
kite | {hero} was flying a yellow kite when the wind suddenly turned | the kite was stuck at the top of a tall poplar | {hero.He} jumped and jumped, but the branch was much too high | ladder | painter | leaned the ladder against the trunk and climbed up, step by step | the kite was free again
wheel | {hero} was pulling a wagon over the bumpy road | a wheel came off and rolled into the ditch | {hero.He} pushed it back on, but it fell off again after three steps | hammer | carpenter | knocked a new peg through the axle, tap, tap, tap | the wheel turned as well as before
roof | it had rained all night, and the roof of the shed was old | water was dripping onto the dry hay | {hero.He} put a cup under the hole, but the cup was full in a minute | pot of tar | sailor | brushed black tar over the crack | not one drop came through
sleeve | {hero} had climbed through a thorny hedge to save time | there was a long tear in {hero.his} sleeve | {hero.He} tried to hold it shut with a leaf, but the leaf broke | needle | tailor | pulled the thread in and out, in and out | nobody could see the tear anymore
mud | it had poured for two days, and the lane was deep with mud | the cart was stuck up to its axles | {hero.He} pushed with all {hero.his} strength, but {hero.he} only slipped and sat down in the mud | plank | farmer | laid the plank under the wheel and pushed once more | the cart rolled out with a loud slurp
well | {hero} was leaning over the well to look at the frogs | the little bell {hero.he} always wore fell in with a plop | {hero.He} reached down, but the water was too deep | net | fisher | lowered the net slowly and scooped | the bell came up, wet and ringing
door | {hero} had slammed the garden door in a hurry | it was stuck, and nobody could get in or out | {hero.He} pulled the handle until it came off | drop of oil | clockmaker | let the oil run into the hinges | the door swung open without a squeak
shelf | someone tall had put the jam on the very top shelf | {hero} could not reach it for the picnic | {hero.He} stood on tiptoe and stretched, but {hero.his} fingers only touched the edge | stool | carpenter | climbed onto the stool and took down the jar | there was jam for everybody
hole | a goat had kicked the fence on Monday | there was a hole in it, and the chickens were walking out one by one | {hero.He} stood in front of the gap, but the chickens ran between {hero.his} legs | board | carpenter | nailed the board over the gap with six nails | the chickens stayed at home
well-rope | {hero} was drawing water, and the rope was very old | it snapped, and the bucket sank | {hero.He} fished for it with a stick, but the stick was too short | hook | blacksmith | tied the hook to a long string and let it down | the bucket hung on the hook, dripping
tire | {hero} had ridden over a sharp nail | the tire of {hero.his} bicycle went flat with a hiss | {hero.He} blew into it until {hero.his} cheeks hurt, but nothing happened | pump | mechanic | glued a patch on the hole and pumped, up and down, up and down | the tire was round and hard
fire | it was freezing, and the wood was damp | the stove in the little school went out | {hero.He} blew on the ashes, but only got soot on {hero.his} nose | bundle of dry sticks | baker | laid the dry sticks crosswise and lit them | the stove crackled, and the room grew warm
sign | a storm had blown all night | the sign at the crossroads pointed the wrong way, and travelers got lost | {hero.He} turned it back, but it spun around with every gust | wrench | mechanic | tightened the bolt as hard as {hero.he} could | the sign stood still and told the truth
boat | {hero} had forgotten to tie up the rowboat | it was drifting toward the middle of the lake | {hero.He} threw a stone to make waves, but the boat only drifted farther | long rope with a hook | fisher | threw the rope again and again until the hook caught the seat | the boat came home
cup | {hero} was carrying three cups in one hand | {hero.his} aunt's favorite cup fell and lost its handle | {hero.He} stuck it on with honey, but the honey ran | tube of glue | potter | put a thin line of glue on the edge and held it for a hundred breaths | the handle stayed on
clock | {hero} had wound the kitchen clock too far | it stopped at four, and everyone missed supper | {hero.He} shook it, but it only rattled | tiny screwdriver | clockmaker | opened the back and loosened one small spring | the clock went tick, tock, tick, tock
lamb | the gate had been left open overnight | a lamb had fallen into a deep ditch | {hero.He} called and called, but the sides were too steep for the lamb | wide board | shepherd | slid the board down like a bridge | the lamb trotted up and out
lantern | the candle in {hero.his} lantern had burned down | the path home was as black as ink | {hero.He} felt {hero.his} way along the wall, but {hero.he} bumped into a post | candle | beekeeper | lit the candle and lifted the lantern high | every stone on the path could be seen
glasses | {hero.his} grandmother had dozed off in the garden | the glasses had slipped into the deep rain barrel | {hero.He} rolled up a sleeve and reached down, but the barrel was too deep | soup ladle | cook | let the ladle down and lifted it very slowly | the glasses lay in it, wet but whole
chimney | two jackdaws had been busy all spring | their old nest was blocking the chimney, and smoke filled the kitchen | {hero.He} opened the window, but the smoke only grew thicker | long broom | miller | pushed the broom up the chimney and twisted | the smoke went up and away
"""

SKILLS = """
kind | doing | fail | why | tip | win
ride a bike | riding a bike | The bike wobbled left and right, and {hero} landed in the grass | {hero.he} kept staring at the front wheel | Look far ahead, not down, and keep pedaling | rolled all the way to the end of the lane
whistle | whistling | Only air came out, and a little spit | {hero.his} lips were too loose | Make your lips as small as a pea, and blow gently | made one clear, high note
swim | swimming | {hero} splashed like a fountain and sank like a stone | {hero.he} was kicking too wildly | Kick slowly, like a frog, and breathe | swam from one side of the pool to the other
tie a bow | tying a bow | The laces slipped apart again and again | {hero.he} pulled before the loop was finished | Make two rabbit ears, cross them, and tuck one under | tied a bow that lasted all day
juggle | juggling | The beanbags rained down on {hero.his} head | {hero.he} threw all three at once | Begin with one, then two, and count as you throw | kept three beanbags in the air for ten counts
skate | skating | {hero.His} feet flew up, and {hero} sat down hard on the ice | {hero.he} was leaning backward | Bend your knees and lean forward a little | glided around the rink without a fall
skip stones | skipping stones | Every stone went plunk and sank | {hero.he} was choosing round stones and throwing high | Take a flat stone and throw it low | made a stone hop five times across the water
play the drum | playing the drum | It sounded like pots falling down the stairs | {hero.he} was playing too fast to hear the beat | Clap it first, slowly, and then play it slowly | played the whole march without a mistake
climb the rope | climbing a rope | {hero} hung there like a wet towel and slid down | {hero.he} was using only {hero.his} arms | Hold the rope with your feet and push | touched the bell at the top
walk on stilts | walking on stilts | After two steps the stilts went one way and {hero} went the other | {hero.he} stood still too long | Keep stepping, small and quick | walked across the whole yard, as tall as a door
draw a horse | drawing a horse | The horse looked like a table with ears | {hero.he} was drawing from memory and never looked | Look twice for every line you draw | drew a horse that seemed ready to gallop
catch a ball | catching a ball | The ball bounced off {hero.his} nose | {hero.he} closed {hero.his} eyes every time | Watch the ball until it is in your arms | caught nine throws out of ten
fly a kite | flying a kite | The kite dived straight into a bush | it had no tail and spun in circles | Tie a long tail to it, and run into the wind | sent the kite so high that it looked like a speck
read a whole page | reading | The letters seemed to swap places, and {hero} got stuck on the first line | {hero.he} tried to guess instead of sounding out | Take one sound at a time, and put a finger under it | read the page aloud from top to bottom
crack an egg | cracking eggs | Bits of shell swam in the bowl | {hero.he} hit the egg as if it were a nail | One gentle tap, and then open it like a little box | cracked six eggs without one bit of shell
paddle a canoe | paddling a canoe | The canoe turned round and round like a leaf | {hero.he} paddled on one side only | Left, right, left, right, as if you were walking | steered the canoe straight to the far shore
knit | knitting | The wool ended up in a knot as big as a potato | {hero.he} pulled every stitch too tight | Let the wool rest on your finger, and do not hurry | finished a whole row without a single knot
say a poem | saying a poem | The third line was gone, as if a bird had taken it | {hero.he} tried to learn it all at once | Learn one line a day, and say it to the cat | said the poem from beginning to end
"""

DISHES = """
kind | dish | first | second | missing | work | bad | smell
pancakes | golden *pancakes | flour | milk | eggs | whisked the batter until it was smooth | thin as paper and torn | warm butter
soup | tasty ~carrot_soup | carrots | broth | onions | chopped and stirred and blew on the spoon | as thin as water | thyme
bread | warm ~bread | flour | water | yeast | kneaded the dough until it was as soft as an ear | as flat as a plate | toast
apple pie | sweet apple_pie | apples | pastry | cinnamon | rolled out the crust and pinched the edges | rather plain | cinnamon
lemonade | cold ~lemonade | lemons | water | sugar | squeezed and stirred until the seeds were gone | so sour that it made you squint | lemons
pizza | big cheese_pizza | dough | tomatoes | cheese | spread the sauce with the back of a spoon | dry and sad | melted cheese
jam | thick ~strawberry_jam | strawberries | lemon juice | sugar | stirred the pot until it bubbled | sharp and runny | summer
porridge | creamy ~porridge | oats | milk | honey | stirred slowly so that nothing would burn | as dull as paste | warm oats
salad | crunchy potato_salad | potatoes | cucumbers | mustard | sliced everything into tiny cubes | bland | herbs
dumplings | round *dumplings | dough | cabbage | ginger | folded each one like a little purse | tame and boring | ginger
rice pudding | creamy rice_pudding | rice | milk | vanilla | stirred for a very long time | pale and tasteless | vanilla
stew | thick vegetable_stew | beans | tomatoes | garlic | let the pot simmer and hum | weak | garlic
chocolate cake | tall chocolate_cake | flour | cocoa | butter | beat the mixture until their arms ached | crumbly as sand | chocolate
cookies | crisp *cookies | flour | butter | raisins | cut out stars and hearts | plain as cardboard | baking
omelet | fluffy omelet | eggs | cream | chives | shook the pan until it sizzled | a little lonely | butter
noodles | long *noodles | noodles | broth | soy sauce | lifted and dipped and stirred | like wet string | sesame
tacos | crispy *tacos | corn tortillas | beans | avocado | filled and folded and stacked | dry as chalk | roasted corn
pumpkin muffins | spicy *pumpkin_muffins | pumpkin | flour | baking powder | spooned the batter into little cups | as hard as stones | nutmeg
"""

CRAFTS = """
kind | from | steps | spoiled | fix
birdhouse | six thin boards | measured, sawed and nailed | the roof came out too short | turned the short board into a little porch
kite | paper and two thin sticks | cut, glued and tied | the paper tore in the middle | pasted a bright star over the tear
puppet | an old sock and two buttons | sewed, stuffed and snipped | one button rolled away and was lost | gave the puppet a patch like a pirate
necklace | string and dried seeds | bored, threaded and knotted | the string snapped and the seeds rolled away | tied the rest into a bracelet
drum | a tin and a piece of leather | stretched, tied and tapped | the leather sagged and made no sound | dried it by the stove until it was tight
raft | logs and rope | rolled, lashed and tested | it tipped to one side | tied an empty barrel to the low corner
lantern | a jar and colored paper | cut, folded and glued | the paper was cut too small | filled the gap with dried leaves
quilt | scraps of old shirts | snipped, pinned and stitched | there was one square too few | added a square from an old red scarf
mask | cardboard and feathers | drew, cut and painted | the paint ran down the nose | turned the drips into tiger stripes
boat | bark and a leaf | carved, scraped and balanced | it leaned like a tired duck | put a pebble in the bottom
scarecrow | two poles and some straw | tied, stuffed and dressed | the head kept falling off | used a pumpkin for a head
card | stiff paper and paint | folded, painted and signed | a big blot of ink fell on it | drew legs on the blot and made it a spider
castle | clay and matchsticks | rolled, pressed and stacked | the tallest tower collapsed | called it a ruin and planted moss on it
whistle | a willow twig | cut, hollowed and smoothed | it only hissed | cut the notch a little deeper
"""

FEARS = """
kind | when | looks | how | truth
shadow | after the lamp was turned off | a tall figure with one arm in the corner of the room | lit a candle and stepped closer | the coat hanging on its hook
tapping | in the middle of the night | a thin finger going tap, tap, tap on the window | pulled back the curtain | a branch of the cherry tree, tapping in the wind
growl | at bedtime | something growling under the bed | bent down with a lantern | the cat, fast asleep and snoring
eyes | when the clock struck ten | two yellow eyes on the dark stairs | clicked on the light | two brass knobs on the old chest
moan | during the storm | a ghost moaning in the chimney | went down and listened by the fireplace | the wind, blowing over the chimney top
rustle | while everyone was sleeping | a burglar rustling in the kitchen | opened the door a crack | a hungry hedgehog with a paper bag on its head
footsteps | late in the evening | soft footsteps above the ceiling | climbed to the attic with a lamp | a squirrel rolling walnuts across the floor
monster | just before midnight | a monster with many arms outside | pressed {hero.his} nose to the glass | the old apple tree in the moonlight
hiss | when the house was quiet | a snake hissing behind the door | peeped around the corner | a tire of the bicycle, slowly going flat
knocking | soon after bedtime | somebody knocking inside the wall | put an ear against the wall | a loose pipe that rattled when the bath ran out
glow | when the moon was hidden | a strange green glow in the grass | crept nearer on tiptoe | a dozen fireflies having a dance
wail | near dawn | a baby wailing in the shed | lifted the latch | a kitten that had been shut in by mistake
"""

MIXES = """
kind | one | two | made | like
orange | red | yellow | orange | a ripe pumpkin
green | blue | yellow | green | spring grass
purple | red | blue | purple | a plum
pink | white | red | pink | a piglet
gray | black | white | gray | a rain cloud
brown | red | green | brown | a chestnut
light blue | white | blue | light blue | the sky in May
"""

RIDDLES = """
kind | ask | wrong | hint | answer
clock | What has two hands but cannot clap | A monkey in mittens | It hangs on the wall and it never stops counting | A clock
river | What has a bed but never sleeps in it | A guest who snores | It has a mouth, too, but it cannot eat | A river
egg | What must be broken before you can use it | A promise | A hen could tell you | An egg
shadow | What follows you all day but goes away at night | My little brother | It has your shape, but it has no face | My shadow
candle | What is tall when it is young and short when it is old | My grandfather | It weeps while it shines | A candle
needle | What has one eye but cannot see | A sleepy pirate | It helps you when your trousers are torn | A needle
echo | What answers you without a mouth | A letter | You can find it in the mountains | An echo
towel | What gets wetter the more it dries | A dog | It hangs beside the bath | A towel
stairs | What goes up and down but never moves | A lazy bird | You used it when you came to bed | The stairs
comb | What has teeth but cannot bite | My baby sister | It lives next to the mirror | A comb
book | What has a spine but no bones | A very soft hedgehog | You can open it, but it has no door | A book
hole | What grows bigger the more you take away | My hunger | A mole makes one every morning | A hole
rain | What falls all day but never gets hurt | A clumsy duck | It drums on the roof | The rain
breath | What is lighter than a feather, though a giant cannot hold it for long | A cloud | You have it right now, under your nose | My breath
stamp | What travels around the world but stays in a corner | A shy mouse | It rides on letters | A stamp
cabbage | What has a head but no neck | A coin, or maybe a snowman | A rabbit would be glad to eat it | A cabbage
"""

# Who did it, and the traces that give it away.
CLUES = """
kind | clue | where | culprit | reason
goose | a gray feather | on the plate | goose | I only wanted one bite, and then it was all gone
dog | muddy paw prints | on the floor | dog | it smelled so good that I forgot my manners
mouse | tiny teeth marks | on the crust | mouse | the winter was long, and my cupboard was empty
rabbit | purple drops | on the window sill | rabbit | I thought that nobody wanted it
squirrel | a trail of nut shells | by the door | squirrel | I was going to leave my nuts in return
cat | white drops of cream | across the rug | cat | I was only cleaning the dish
donkey | bits of straw | under the table | donkey | I cannot think when I am hungry
sheep | a tuft of white wool | on the chair | sheep | I was cold, and it was warm
duck | wet webbed footprints | beside the stove | duck | I came in from the rain, and nobody was at home
goat | small hoof prints | in the flour | goat | I eat everything, and I am sorry about the napkin, too
bear | sticky honey prints | on the handle | bear | I took it for a gift
fox | a red hair | on the cushion | fox | I planned to ask, but you were asleep
"""

SIGHTS = """
kind | as | last
bridge | a swinging bridge over a deep gorge | {hero.He} held on with both {hero.hands} and did not look down
swamp | a smelly green swamp | {hero.He} jumped from one grassy lump to the next
wall | a high stone wall | {hero.He} followed it until {hero.he} found a narrow gap
thorns | a hedge full of thorns | {hero.He} crawled underneath, flat as a carpet
fog | a fog as thick as wool | {hero.He} walked with one {hero.hand} stretched out in front
desert | a hot and empty plain | {hero.He} rested by day and traveled by starlight
stream | a cold, rushing stream | {hero.He} hopped from stone to stone across it
cliff | a steep gray cliff | {hero.He} went the long way around, where goats had made a path
field | a field of nettles | {hero.He} beat a path with a stick
tunnel | a dark tunnel under a mountain | {hero.He} sang all the way through, so as not to be afraid
"""

FACTS = {
    "place": PLACES, "sky": SKIES, "job": JOBS, "skill": SKILLS, "dish": DISHES, "craft": CRAFTS, "fear": FEARS,
    "mix": MIXES, "riddle": RIDDLES, "clue": CLUES, "sight": SIGHTS,
}
