"""The people and the things of the stories: tables read by `story_tables.py` (which explains the notation).

Rows near the top are drawn more often. `{he}`, `{him}`, `{his}` in a person's row become that person's pronouns.
"""

GROUPS = {
    "color": "red blue green yellow orange purple pink white brown golden silver gray turquoise",
    "size": "big little small tiny huge",
    "candy": "pink yellow white green purple orange",
    "bloom": "red yellow pink white orange purple",
    "age": "old new shiny dusty faded",
    "soft": "soft fluffy warm woolly cozy",
    "taste": "sweet juicy ripe fresh tasty",
}

NAMES = {
    "child_f": "Mia, Lily, Anna, Zoe, Emma, Ruby, Nora, Ella, Rosa, Amy, Clara, Ivy, Maya, Leila, Sara, Hana, Tess, Priya, "
    "Yuki, Amara, Lucy, Molly, Alice, Freya, Nina, Bella, Penny, Kira, Lola, Rosie, Jade, Iris, Mei, Fatima, Elsa, Greta, "
    "Naomi, Olga, Paula, Tara, Vera, Wanda, Zara, Ingrid, Sofia, Carmen, Beatrix, Josie",
    "child_m": "Tom, Ben, Sam, Leo, Max, Jack, Tim, Noah, Finn, Omar, Luca, Theo, Eli, Hugo, Ravi, Kofi, Jonas, Oscar, Felix, "
    "Owen, Milo, Adam, Peter, Henry, Diego, Kenji, Amir, Lars, Toby, Mateo, Samir, Ned, Otto, Paul, Simon, Joe, Nico, Ian, "
    "Charlie, Arlo, Victor, Walter, Stefan, Bruce, Caleb, Dario, Emil, Yusuf",
    "animal_f": "Hazel, Clover, Tilly, Maple, Dot, Fern, Willow, Luna, Bramble, Pippa, Juniper, Poppy, Daisy, Olive, Minnie, "
    "Flora, Mitzi, Trixie, Saffron, Velvet, Opal, Marigold, Cricket, Twinkle",
    "animal_m": "Pip, Bruno, Rusty, Otis, Barnaby, Moss, Chester, Gus, Scout, Basil, Fergus, Bumble, Alfie, Monty, Dusty, "
    "Rufus, Ziggy, Bingo, Pogo, Sorrel, Jasper, Tumble, Wilbur, Humphrey",
    "creature_f": "Ember, Glimmer, Misty, Pearl, Sparkle, Breeze, Aurora, Echo",
    "creature_m": "Smudge, Rumble, Flint, Cobalt, Thimble, Boulder, Comet, Zephyr",
}

CHILDREN = """
kind | tags | genders | names | lived | moved | hands | hand
girl | child | f | child | in a little house near the river / in a small town by the sea / on a quiet street / in a tall house with a red door / in a village between two hills / above a shoe shop / on a farm with a leaning barn | ran / walked / skipped / hurried | hands | hand
boy | child | m | child | in a little house near the river / in a small town by the sea / on a quiet street / in a tall house with a red door / in a village between two hills / above a bicycle shop / on a farm with a leaning barn | ran / walked / skipped / hurried | hands | hand
"""

ELDERS = """
kind | tags | genders | names
mother | parent | f | Mom
father | parent | m | Dad
grandmother | grand | f | Grandma
grandfather | grand | m | Grandpa
aunt | aunt | f | Aunt Rose, Aunt May, Aunt Ada, Aunt Bea
uncle | aunt | m | Uncle Bob, Uncle Fred, Uncle Ali, Uncle Walt
"""

ANIMALS = """
kind | tags | genders | names | size | sound | lived | food | moved | hands | hand | land
mouse | wood small | fm | animal | tiny | squeaked | in a cozy hole under an old oak / behind a mossy stone | seeds / crumbs of cheese | scurried / scampered | paws | paw | forest
rabbit | wood small | fm | animal | small | said | in a warm burrow under the hill / beneath a hawthorn bush | carrots / clover | hopped / bounded | paws | paw | forest
fox | wood | fm | animal | slim | yipped | in a den among the roots / in a sandy den | blackberries / plums | trotted / slipped | paws | paw | forest
bear | wood big | fm | animal | big | growled | in a deep cave / in a cave behind the waterfall | honey / blueberries | lumbered / plodded | paws | paw | forest
squirrel | wood small | fm | animal | small | chattered | in a nest high in a pine tree / in a hollow chestnut tree | acorns / walnuts | darted / scampered | paws | paw | forest
owl | wood wing | fm | animal | old | hooted | in a hollow tree / at the top of a dead elm | beetles / moths | glided / flapped | wings | wing | forest
hedgehog | wood small | fm | animal | small | snuffled | in a nest of dry leaves / under a pile of twigs | slugs / windfall apples | shuffled / trundled | paws | paw | forest
badger | wood | fm | animal | sturdy | grunted | in a burrow with seven doors / under the bank | roots / mushrooms | trudged / waddled | paws | paw | forest
deer | wood big | fm | animal | slender | said | in a thicket of ferns / at the edge of the woods | tender leaves / moss | leaped / stepped lightly | hooves | hoof | forest
mole | wood small | fm | animal | small | mumbled | in a long dark tunnel / under the meadow | worms / grubs | crawled / shuffled | paws | paw | forest
raccoon | wood | fm | animal | plump | chattered | in an empty log / in a hollow stump | corn / crayfish | scrambled / tiptoed | paws | paw | forest
robin | wood wing small | fm | animal | small | chirped | in a nest of moss / in the ivy | berries / worms | fluttered / hopped | wings | wing | forest
wolf | wood big | fm | animal | lean | howled | in a den in the rocks / beyond the ridge | stew / venison pie | loped / prowled | paws | paw | forest
duck | pond wing | fm | animal | plump | quacked | among the reeds / on a grassy bank | water weeds / duckweed | waddled / paddled | wings | wing | pond
frog | pond small | fm | animal | small | croaked | on a lily pad / beside the pond | flies / gnats | hopped / leaped | feet | foot | pond
turtle | pond | fm | animal | slow | murmured | under a flat rock / on a sunny log | lettuce / dandelions | plodded / crawled | feet | foot | pond
otter | pond | fm | animal | sleek | whistled | in a den in the riverbank / under a willow root | fish / shrimp | slid / swam | paws | paw | pond
beaver | pond | fm | animal | busy | grunted | in a lodge of sticks / behind the dam | bark / twigs | paddled / waddled | paws | paw | pond
swan | pond wing | fm | animal | graceful | hissed | on a small island / among the rushes | pondweed / water plants | glided / swam | wings | wing | pond
heron | pond wing | fm | animal | tall | croaked | in the tallest alder / in the shallows | minnows / eels | waded / stalked | wings | wing | pond
newt | pond small | fm | animal | tiny | piped | under a wet leaf / in the mud | tadpoles / midges | wriggled / crept | feet | foot | pond
pig | farm | fm | animal | pink | oinked | in a clean sty / beside the barn | turnips / corn mash | trotted / rolled along | feet | foot | farm
goat | farm | fm | animal | bearded | bleated | in a wooden shed / behind the orchard | thistles / hay | skipped / climbed | hooves | hoof | farm
donkey | farm big | fm | animal | gray | brayed | in an old stable / in the lower field | oats / thistles | trotted / clopped along | hooves | hoof | farm
pony | farm big | fm | animal | spotted | neighed | in a stable full of straw / in the paddock | oats / apples | galloped / trotted | hooves | hoof | farm
sheep | farm | fm | animal | woolly | bleated | in the upper field / in a fold of stone | grass / daisies | ambled / trotted | hooves | hoof | farm
goose | farm wing | fm | animal | loud | honked | in a pen by the gate / near the well | grain / grass | strutted / marched | wings | wing | farm
hen | farm wing small | f | animal | speckled | clucked | in a snug henhouse / in the coop | corn / millet | strutted / trotted | wings | wing | farm
rooster | farm wing | m | animal | handsome | crowed | in the coop / on top of the barn | corn / barley | strutted / marched | wings | wing | farm
cat | farm pet small | fm | animal | striped | purred | in the hayloft / on a cushion by the stove | cream / sardines | crept / padded | paws | paw | farm
dog | farm pet | fm | animal | shaggy | barked | in a kennel by the door / on the porch | bones / biscuits | bounded / raced | paws | paw | farm
calf | farm | fm | animal | wobbly | mooed | in the cowshed / in the green pasture | milk / buttercups | trotted / wobbled along | hooves | hoof | farm
elephant | jungle big | fm | animal | huge | trumpeted | by the wide river / among the fig trees | bananas / melons | stomped / strolled | feet | foot | jungle
monkey | jungle | fm | animal | quick | chattered | in the tallest palm / among the vines | bananas / mangoes | swung / climbed | hands | hand | jungle
lion | jungle big | fm | animal | strong | roared | on a warm rock / in the long grass | stew / meat pies | padded / strode | paws | paw | jungle
giraffe | jungle big | fm | animal | tall | hummed | beside the acacia trees / on the plain | leaves / pods | strode / swayed along | hooves | hoof | jungle
zebra | jungle | fm | animal | striped | snorted | on the open plain / near the water hole | grass / herbs | galloped / cantered | hooves | hoof | jungle
parrot | jungle wing small | fm | animal | bright | squawked | in a mango tree / in a nest of vines | figs / nuts | flew / flapped | wings | wing | jungle
tiger | jungle big | fm | animal | striped | growled | among the bamboo / in a shady cave | dumplings / meat pies | prowled / bounded | paws | paw | jungle
hippo | jungle big | fm | animal | heavy | bellowed | in the muddy river / under the bank | reeds / melons | splashed along / waddled | feet | foot | jungle
lizard | jungle small | fm | animal | green | hissed softly | between hot stones / under a root | ants / crickets | darted / slithered | feet | foot | jungle
crocodile | jungle big | fm | animal | long | snapped | in the swamp / by the muddy river | fish / catfish soup | crawled / slid | feet | foot | jungle
camel | jungle big | fm | animal | patient | grumbled | at the edge of the sand / near the oasis | dates / thorny twigs | plodded / swayed along | feet | foot | jungle
penguin | ice | fm | animal | plump | squawked | on a snowy shore / in a huddle by the sea | herring / krill | waddled / slid | flippers | flipper | north
seal | ice | fm | animal | round | barked | on a gray rock / beside a hole in the frost | herring / squid | flopped along / swam | flippers | flipper | north
walrus | ice big | fm | animal | wrinkled | bellowed | on a drifting floe / on a stony beach | clams / mussels | shuffled / rolled along | flippers | flipper | north
puffin | ice wing small | fm | animal | stubby | cooed | in a burrow on the cliff / among the boulders | sprats / capelin | hopped / fluttered | wings | wing | north
reindeer | ice big | fm | animal | shaggy | snorted | on the frozen plain / beneath the northern lights | lichen / moss | trotted / galloped | hooves | hoof | north
"""

PETS = """
kind | tags | genders | names
puppy | pet | fm | animal
kitten | pet | fm | animal
"""

CREATURES = """
kind | tags | genders | names | size
dragon | fire | fm | creature | green
giant | big | fm | creature | lonely
robot | metal | fm | creature | silver
fairy | magic | fm | creature | tiny
cloud | sky | fm | creature | little
star | sky | fm | creature | young
"""

ROYALS = """
kind | tags | genders | names
queen | ruler | f | the queen
king | ruler | m | the king
"""

WORKERS = """
kind | tags | genders | names | shop | makes | need | why | busy
baker | shop gift | fm | the baker | bakery | fresh loaf | rolling pin | my old one cracked this morning | was kneading dough / was dusting rolls with flour
farmer | land gift | fm | the farmer | farm | basket of apples | rope | the cow has slipped out of the field again | was milking a cow / was raking hay
librarian | shop gift | fm | the librarian | library | picture book | pair of glasses | I sat on mine | was stamping books / was sorting a tall pile of stories
carpenter | shop | fm | the carpenter | workshop | wooden stool | hammer | the handle of mine broke | was sawing a plank / was sanding a table
fisher | water | fm | the fisher | boat | silver fish | net | a pike tore mine to pieces | was mending a net / was coiling a line
tailor | shop gift | fm | the tailor | tailor shop | blue cloak | spool of thread | there is not a stitch left in the shop | was sewing a sleeve / was cutting cloth
gardener | land gift | fm | the gardener | greenhouse | bunch of tulips | watering can | mine has a hole as big as a coin | was watering the ferns / was trimming a hedge
painter | shop gift | fm | the painter | studio | bright picture | brush | the cat ran off with mine | was mixing paint / was cleaning brushes
doctor | shop | fm | the doctor | clinic | bottle of medicine | clean bandage | I used up the last one today | was washing up / was writing notes
mail carrier | road | fm | the mail carrier | post office | letter | new bag | all the letters fall through the hole in mine | was sorting letters / was tying parcels
shoemaker | shop gift | fm | the shoemaker | shoe shop | pair of boots | strip of leather | this sole is worn through | was polishing a boot / was hammering a heel
blacksmith | shop | fm | the blacksmith | forge | iron hook | bucket | the fire must never stand without water | was hammering hot iron / was pumping the bellows
cook | shop | fm | the cook | kitchen | pot of soup | wooden spoon | the last one fell into the fire | was peeling potatoes / was stirring a pot
miller | land | fm | the miller | mill | sack of flour | broom | there is flour on everything | was filling sacks / was oiling the great wheel
beekeeper | land gift | fm | the beekeeper | bee garden | jar of honey | straw hat | the wind stole mine | was checking the hives / was scraping wax
teacher | shop | fm | the teacher | school | notebook | piece of chalk | the last bit crumbled to dust | was wiping the board / was marking papers
potter | shop gift | fm | the potter | pottery | clay mug | sponge | mine fell apart | was spinning the wheel / was glazing a bowl
weaver | shop gift | fm | the weaver | loom house | striped blanket | comb | half the teeth of mine are gone | was winding wool / was weaving a rug
clockmaker | shop gift | fm | the clockmaker | clock shop | little clock | magnifying glass | I cannot see these tiny wheels | was winding clocks / was oiling a spring
sailor | water gift | fm | the sailor | ship | brass compass | lantern | the nights at sea are black | was scrubbing the deck / was tying knots
shepherd | land gift | fm | the shepherd | hut | ball of wool | bell | my smallest lamb keeps wandering off | was counting sheep / was whistling to a dog
mechanic | shop | fm | the mechanic | garage | bicycle pump | wrench | mine rolled down the drain | was fixing a truck / was changing a tire
"""

USUAL_TRAITS = "curious cheerful kind shy brave clever careful silly gentle dreamy chatty quiet stubborn nervous playful polite hopeful"
CALM_TRAITS = "kind gentle patient wise friendly cheerful"

TRAITS = """
trait | said | asked | habit | react | adverb
curious | said / said eagerly / said with wide eyes | asked / asked at once / wondered aloud | asked a hundred questions a day / looked under every stone / wanted to know how everything worked | wondered what to do next / looked at it from every side | eagerly
cheerful | said / said brightly / said with a grin | asked / asked with a grin | hummed from morning to night / woke up singing / found something to smile about every day | tried to smile anyway / took a breath and hummed a brave little tune | happily
kind | said / said warmly / said kindly | asked / asked kindly | shared whatever {he} had / never forgot to say thank you / noticed when others were sad | tried not to show it / took it without a word | kindly
shy | whispered / said softly / mumbled | asked in a small voice / whispered | spoke so softly that others had to lean in / hid whenever visitors came / turned pink when anyone looked | looked down at the ground / blinked and did not make a sound | softly
brave | said / said firmly / said in a clear voice | asked / asked boldly | was not even scared of thunder / climbed the highest trees / always went first into dark places | took a deep breath and stood up straight / lifted {his} chin | boldly
clever | said / said after some thought / said thoughtfully | asked / asked thoughtfully | loved riddles and puzzles / could count to a thousand / always had a plan | thought hard / counted the ways to fix it | wisely
careful | said / said slowly / said with care | asked / asked slowly | checked everything twice / never ran with scissors / looked both ways, even in the garden | stopped to think / looked at everything once more | carefully
silly | said / said with a twinkle / said in a funny voice | asked / asked in a funny voice | wore odd socks on purpose / made everyone laugh / talked to spoons | pulled a funny face / laughed, though it was not very funny | merrily
gentle | said gently / said / said in a calm voice | asked gently / asked | carried beetles out of the rain / never pushed or shouted / had a soft word for everyone | sighed quietly / stayed very calm | gently
dreamy | said / said dreamily / said in a faraway voice | asked dreamily / asked | spent hours watching clouds / made up songs about the moon / often forgot what day it was | stared into the distance / wished it were only a dream | dreamily
chatty | said quickly / said / said in one breath | asked / asked in one breath | talked from breakfast to bedtime / told stories to anyone who would listen / even talked while asleep | started to talk very fast / could not find a single word for once | quickly
quiet | said / said quietly / murmured | asked quietly / asked | liked to sit and listen / thought a lot and said little / could sit still for an hour | said nothing for a while / sat down to think | quietly
stubborn | said / said firmly / said with a firm nod | asked / asked again | never gave up once {he} had begun / tried everything at least ten times / did not like the word no | refused to give up / clenched {his} teeth and thought again | firmly
nervous | said in a shaky voice / stammered / said | asked nervously / asked in a shaky voice | worried about almost everything / jumped at every small noise / counted the steps to every door | trembled a little / chewed {his} lip | nervously
playful | said / said with a wink / said with a grin | asked / asked with a wink | turned everything into a game / loved tag and leapfrog / never walked when {he} could dance | tried to make a game of it / turned in a circle, thinking | playfully
polite | said / said politely / answered politely | asked politely / asked | said please and thank you to everyone / bowed to every beetle / always knocked first | said, "Oh dear," and nothing worse / took a moment to be calm | politely
hopeful | said / said hopefully / said with shining eyes | asked hopefully / asked | believed that tomorrow would be even better / wished on every star / always kept one seat free for a new friend | hoped for a good idea / looked up, as if help might come | hopefully
patient | said / said patiently / answered | asked / asked patiently | never hurried anyone / could wait all day for a bud to open | waited calmly / sat down to think | patiently
wise | said / said calmly / answered | asked / asked gently | had an answer for almost everything / knew many old stories | nodded slowly / thought about it | wisely
friendly | said / said with a smile / answered | asked / asked with a smile | waved at everyone / knew every name in town | smiled anyway / scratched {his} chin | warmly
lazy | said with a yawn / mumbled / said | asked with a yawn / asked | would rather nap than do anything else / put off every job until tomorrow | sighed and lay down for a moment / yawned | lazily
proud | boasted / announced / said proudly | asked / demanded | told everyone how clever {he} was / never asked for help / admired {himself} in every puddle | pretended that nothing was wrong / stuck {his} nose in the air | proudly
greedy | said / said with greedy eyes / muttered | asked / demanded | always wanted the biggest piece / counted {his} treats every night / never left a crumb for anyone | looked around for more / scowled | greedily
grumpy | grumbled / muttered / huffed | asked crossly / grumbled | complained about the sun and about the rain / frowned before breakfast / did not like surprises | stamped on the ground / scowled | crossly
impatient | blurted out / said quickly / said | asked / asked for the tenth time | could never wait / ate the soup while it was too hot / wanted everything right now | hopped up and down / groaned | hastily
messy | mumbled / said / said with a shrug | asked / asked with a shrug | left {his} things all over the place / never put anything back | kicked at the mess / groaned | messily
forgetful | said / mumbled / said with a blush | asked / asked with a blush | often forgot {his} own lunch / wore two different shoes by mistake / never knew what day it was | tried hard to remember / scratched {his} head | absently
bossy | ordered / said / announced | demanded / asked loudly | told everyone what to do / always picked the game | frowned / crossed {his} arms | loudly
"""

THINGS = {
    "toy": """@color @size ball / @color kite / @color toy_car / soft brown old little teddy_bear / old pretty little rag_doll /
@color spinning_top / little silver clever robot / @color wooden toy_boat / @color @size balloon / @color drum / wooden toy_train /
striped funny puppet / @color shiny marble / @color scooter / @color jump_rope / wooden painted toy_horse / stuffed floppy rabbit /
@color yo-yo / hard wooden puzzle / plastic green friendly dinosaur / @color little wagon / shiny tin whistle / @color pinwheel /
soft gray toy_elephant""",
    "ball": "@color @size bouncy ball",
    "clothes": """@color @size hat / @color striped warm scarf / @color *mittens / @color *boots / @color raincoat / @color sweater /
@color cap / @color *socks / @color warm jacket / @color woolly *gloves / @color ribbon / checkered shirt /
@color apron / brown leather belt / @color vest / striped *pajamas / velvet cape""",
    "box": """@size wooden old box / @size woven basket / @size glass jar / @size paper leather bag / @size tin bucket /
@size wooden old chest / @size deep drawer / @size old brown suitcase / @size cardboard crate / clay pot / @color tin / canvas sack""",
    "fruit": """@color @taste apple / yellow @taste pear / @taste purple plum / @taste orange / @taste peach=peaches / @taste banana /
red @taste cherry / @taste melon / @taste mango=mangoes / @taste apricot / @taste fig / sour yellow lemon / @taste tangerine /
@taste pineapple""".replace("@color @taste apple", "red green shiny @taste apple"),
    "berry": """@taste strawberry / @taste blueberry / @taste raspberry / @taste blackberry / @taste gooseberry / wild cranberry /
crunchy hazelnut / brown chestnut / wild ripe cherry / smooth acorn""",
    "treat": """chocolate ginger oat crunchy warm cookie / blueberry warm tiny muffin / warm honey bun / @candy little cupcake / sticky lemon
tart / jam doughnut / cinnamon roll / cheese crispy cracker / sugary pretzel / warm buttery scone / plum dumpling / honey waffle /
nut almond biscuit / @candy lollipop / caramel toffee=toffees""",
    "flower": """@bloom tulip / @bloom rose / white little daisy / tall yellow sunflower / purple sweet lilac / blue wild violet / red wild
poppy / white lily / yellow daffodil / orange marigold / blue bluebell / pink peony / golden buttercup""",
    "crop": """orange @size carrot / @size pumpkin / @size turnip / red @size tomato=tomatoes / green @size cabbage / @size potato=potatoes /
red @size radish / @size beet / green @size cucumber / @size onion / @size squash=squashes / purple eggplant / @size leek""",
    "gift": """woolly @color scarf / paper @color lantern / clay painted bowl / wooden carved spoon / @color beaded necklace / knitted @color hat /
pressed-flower card / wooden bird_house / @color woven bracelet / patchwork cushion / painted picture_frame / scented candle /
straw basket / @color felt bookmark / little rag_doll""",
    "jewel": """@color glass bead / round golden coin / tiny silver bell / green smooth stone / shiny brass key / silver ring / bright pearl
button / old golden medal / ruby brooch / silver locket / crystal marble / ivory comb""",
    "instrument": """@color drum / silver flute / old violin / brass trumpet / wooden guitar / shiny tin whistle / little harp / squeaky old
accordion / copper horn / wooden xylophone / bamboo pipe / tiny ukulele / black clarinet / big cello""",
    "vehicle": "yellow @size bus / @color long train / green rattling tram / @color old coach=coaches",
    "furniture": """old wooden table / soft @color sofa / tall wardrobe / narrow bed / wobbly chair / dusty bookshelf=bookshelves /
heavy curtain / deep cupboard / squeaky rocking_chair / painted chest / laundry basket / low bench / piano""",
    "tree": "tall old oak / thin white birch / crooked apple_tree / weeping willow / dark pine / wide maple / old chestnut / slender poplar / knotty cedar / blooming cherry_tree",
    "bug": "@color beetle / fat green caterpillar / @color butterfly / busy bee / tiny ant / spotted ladybug / long-legged spider / slow snail / blue dragonfly / noisy cricket / pale moth / green grasshopper / striped wasp / shiny firefly",
    "baby": "fluffy tiny duckling / tiny gray kitten / small clumsy puppy / white woolly lamb / yellow fluffy chick / brown little foal / tiny spotted fawn / little fuzzy owlet / small pink piglet / young goat_kid",
}
