"""The words the world is made of: what stands beside each other here is true."""

COUNTRIES = (
    "Lomar Vasken Tiroo Belund Quorra Nethim Osgar Pelia Drovia Hastrel Immery Jurand Kolbar "
    "Lisco Mundra Norwick Ostane Purvey Rastin Selmar Turga Ulven Vintor Wexley Yarrow Zenda "
    "Arkady Brimor Calder Dunmer Elwood Farlan"
)
CAPITALS = (
    "Brevo Tolsk Maraby Ankrel Fustan Olimay Gerwin Shorby Ravello Dintz Corvan Pashta Winlow "
    "Hubrik Erlos Kanta Jostle Milray Zarkon Nubia Lestow Vorpal Yeltra Quints Ambry Orsk Tandem "
    "Silgo Bexham Prulla Dakar Ifrane"
)
COLOURS = {
    "red": "a tomato, a ruby, a cherry, a brick, a fire truck",
    "yellow": "a lemon, a banana, the sun, a canary, butter",
    "green": "grass, a frog, a pea, a leaf, a lime",
    "blue": "the sky, the sea, a sapphire, a bluebell",
    "white": "snow, milk, salt, a swan, paper",
    "black": "coal, a raven, tar, night, ink",
    "orange": "a carrot, a pumpkin, a fox, a goldfish",
    "brown": "chocolate, a bear, soil, bark",
    "grey": "an elephant, ash, a storm cloud, a dolphin",
}
OPPOSITES = (
    "hot cold, big small, fast slow, high low, old new, wet dry, hard soft, light dark, "
    "full empty, open shut, happy sad, rich poor, strong weak, loud quiet, clean dirty, "
    "early late, long short, near far, thick thin, sweet sour, up down, in out, left right, "
    "first last, good bad"
)
SOUNDS = (
    "cow moo, dog bark, cat meow, duck quack, pig oink, sheep baa, lion roar, bee buzz, "
    "horse neigh, owl hoot, snake hiss, mouse squeak, wolf howl, crow caw, frog croak, hen cluck, "
    "donkey bray, dove coo, bird tweet, turkey gobble"
)
YOUNG = (
    "cow calf, dog puppy, cat kitten, duck duckling, pig piglet, sheep lamb, lion cub, horse foal, "
    "goat kid, hen chick, deer fawn, frog tadpole, swan cygnet, goose gosling, kangaroo joey, "
    "eagle eaglet, owl owlet, hare leveret, fish fry, eel elver"
)
KINDS = {
    "fruit": "apple pear plum mango melon",
    "tool": "hammer saw drill spade wrench",
    "fish": "trout salmon tuna cod pike",
    "tree": "oak birch pine maple willow",
    "metal": "iron gold silver copper tin",
    "instrument": "piano violin flute drum harp",
    "insect": "ant wasp moth beetle cricket",
    "flower": "rose tulip daisy lily violet",
    "vehicle": "car bus train truck tram",
    "garment": "shirt coat sock glove scarf",
}
SERIES = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday",
    "January February March April May June July August September October November December January",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    " ".join(str(number) for number in range(1, 51)),
)
