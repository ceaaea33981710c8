"""Data for `unicode`, as tokenizers 0.23.3 and tiktoken 0.14.0 have it; made by tests/golden/make_unicode_table.py.

TABLE: the kind of every code point, packed. LOWER: runs first,last,step,shift in base 36. Leaves out: see `unicode`.
"""

SCRIPTS = """none Common Inherited Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Cherokee Khmer Mongolian Hiragana Katakana Bopomofo Han Yi Tifinagh Javanese Balinese""".split()

LOWER = """
1t,2i,1,w 5c,5y,1,w 60,66,1,w 74,8e,2,1 8i,8m,2,1 8p,93,2,1 96,ae,2,1 ag,ag,1,-3d ah,al,2,1 ap,ap,1,5u aq,as,2,1 au,au,1,5q
av,av,1,1 ax,ay,1,5p az,az,1,1 b2,b2,1,27 b3,b3,1,5m b4,b4,1,5n b5,b5,1,1 b7,b7,1,5p b8,b8,1,5r ba,ba,1,5v bb,bb,1,5t bc,bc,1,1
bg,bg,1,5v bh,bh,1,5x bj,bj,1,5y bk,bo,2,1 bq,bq,1,62 br,br,1,1 bt,bt,1,62 bw,bw,1,1 by,by,1,62 bz,bz,1,1 c1,c2,1,61 c3,c5,2,1
c7,c7,1,63 c8,c8,1,1 cc,cc,1,1 ck,ck,1,2 cl,cl,1,1 cn,cn,1,2 co,co,1,1 cq,cq,1,2 cr,d7,2,1 da,dq,2,1 dt,dt,1,2 du,dw,2,1
dy,dy,1,-2p dz,dz,1,-1k e0,f2,2,1 f4,f4,1,-3m f6,fm,2,1 fu,fu,1,8bv fv,fv,1,1 fx,fx,1,-4j fy,fy,1,8bs g1,g1,1,1 g3,g3,1,-5f
g4,g4,1,1x g5,g5,1,1z g6,ge,2,1 og,oi,2,1 om,om,1,1 ov,ov,1,38 p2,p2,1,12 p4,p6,1,11 p8,p8,1,1s pa,pb,1,1r pd,pt,1,w pv,q3,1,w
r3,r3,1,8 rc,ry,2,1 s4,s4,1,-1o s7,s7,1,1 s9,s9,1,-7 sa,sa,1,1 sd,sf,1,-3m sg,sv,1,28 sw,tr,1,w v4,w0,2,1 wa,xq,2,1 xs,xs,1,f
xt,y5,2,1 y8,10u,2,1 10x,11y,1,1c 3a8,3b9,1,5ls 3bb,3bb,1,5ls 3bh,3bh,1,5ls 3vk,3xr,1,tzk 3xs,3xx,1,8 5mx,5mx,1,1 5n4,5oa,1,-2bk
5od,5of,1,-2bk 5xc,61g,2,1 61q,61q,1,-5vj 61s,64e,2,1 64o,64v,1,-8 654,659,1,-8 65k,65r,1,-8 660,667,1,-8 66g,66l,1,-8
66x,673,2,-8 67c,67j,1,-8 688,68f,1,-8 68o,68v,1,-8 694,69b,1,-8 69k,69l,1,-8 69m,69n,1,-22 69o,69o,1,-9 6a0,6a3,1,-2e
6a4,6a4,1,-9 6ag,6ah,1,-8 6ai,6aj,1,-2s 6aw,6ax,1,-8 6ay,6az,1,-34 6b0,6b0,1,-7 6bc,6bd,1,-3k 6be,6bf,1,-3i 6bg,6bg,1,-9
6jq,6jq,1,-5st 6ju,6ju,1,-6gv 6jv,6jv,1,-6di 6k2,6k2,1,s 6lc,6lr,1,g 6mb,6mb,1,1 792,79r,1,q 8ow,8q7,1,1c 8rk,8rk,1,1
8rm,8rm,1,-8af 8rn,8rn,1,-2xy 8ro,8ro,1,-89z 8rr,8rv,2,1 8rx,8rx,1,-8bg 8ry,8ry,1,-8al 8rz,8rz,1,-8bj 8s0,8s0,1,-8bi 8s2,8s2,1,1
8s5,8s5,1,1 8se,8sf,1,-8cf 8sg,8v6,2,1 8vf,8vh,2,1 8vm,8vm,1,1 wu8,wvg,2,1 ww0,wwq,2,1 x0i,x0u,2,1 x0y,x2m,2,1 x2x,x2z,2,1
x31,x31,1,-r9g x32,x3a,2,1 x3f,x3f,1,1 x3h,x3h,1,-wmg x3k,x3m,2,1 x3q,x48,2,1 x4a,x4a,1,-wn8 x4b,x4b,1,-wnj x4c,x4c,1,-wnf
x4d,x4d,1,-wn5 x4e,x4e,1,-wn8 x4g,x4g,1,-wlu x4h,x4h,1,-wmi x4i,x4i,1,-wlx x4j,x4j,1,ps x4k,x4y,2,1 x50,x50,1,-1c x51,x51,1,-wn7
x52,x52,1,-raw x53,x55,2,1 x57,x57,1,-wo7 x58,x5m,2,1 x5o,x5o,1,-wu9 x6d,x6d,1,1 1ee9,1eey,1,w 1fcw,1fdz,1,14 1fhs,1fir,1,14
1fn4,1fne,1,13 1fng,1fnu,1,13 1fnw,1fo2,1,13 1fo4,1fo5,1,13 1h1c,1h2q,1,1s 1h74,1h7p,1,w 1jfk,1jgf,1,w 20cg,20db,1,w
20f4,20fs,1,r 2olc,2om9,1,y
"""

TABLE = """
{Wp48S^xk9=GL@E0stWa8~^|S5YJf5;6W=Fx?KQ3fsxbQc6+{MZML6JdoWga#o2+JciM5en_A2UPi;4_tUvWcw)CFnk~jNGSQ)?GlJ{)a!N#6KU>10FaPR9J-dfY{aZvkb
L*BXT*)nenxZ)@{hIf`%@doWy+$u`;c9^6xZ|(AV?1KwAjW#R_dX3!fyJ-=1VQQ%SC6Q|Po&0rBm`L%p8V7DVis7&hhj7#{0X+h%uAzOrToT;cK}Oi*Uo>{P2tJv->?crq
CfVsPukQ%{FE_MovAb3R@G21b{&sveaXj!Vo$2g#bGi);HJX)Qf$A$K#`77k&gKogER-O%^FH`Q6nQ0GvfSeNsiaz{YgI_2kIi^iGGJSK)xfKKRTKX1zpsv&1}z!bQqnoA
OFBjMCI{BHiIBvrWzf}lfaQQgLZCB_c!rz!c5-zHTNM=<W43IB$#egv9H?ttTh4+;X8oOHPWuU;k@%vM^BN>;-;LlTvh-7dn>{8?dR_niRLb{(wrl$(DV0Q3LW2~L6k&Rh
<>&WMiRNf@s&49{tF+vLQ-HkaaGMBq8dA4?ysqsBe%M=6i>G1{9it7m&Pk%s2SkWXPcq^HB<diyRJ9&t=EwMtYYbWzSm-v<ow2#epPRK*1|MCoGF>fsBEM3D(R{90{bu0R
zm)3En>@Rb=egQ6jbcg3)3~;mif!?GU8?K*K{s(Qyo*kzY)aktBc3|EQJ7TpDf=Jf@>iZ^`sgtB%q3S-h@f^dLL{1w4INc3HdOcZ?~aZ<pqzpH;Z7tU`TS~zc8t|SmlQSU
cV97#^Hefo2CPPQs)|Qx)jg?x4Az|Pe5oH(DYA7_3<t(@2V>y%e#+XT6R7P$+QxuR;827RW&c<(BQ&I&B~QV^jLgz27t0h<5FMgYG!;HbqFm*<9$E${If-2h7o9Zk#c~_X
3_s5mqi20D(P_ZJc}|SL(!$O9;`YFiyCV*{9w$?(X`3eOe*RW@)jAZ}^Sini#y5u4LGvVnHE0EP18jJY$g`|nxJnykt)J`*Oyc6c1XVCkpJ+IB_@%dyIR>`*T&JkP9yUHg
1~`!5`kv!RW+nz=9`4I|ZM0QqedEv-bw&KE;xWmrr>6Ga0s0V``Pxp!&yoiJTwp8Bkre^;mabU4Dnp9Zw<umO%$c^-W<VhK=isw5RTbC#nn*;&oVpQ1Qi4A@<>wd7A#MGE
RF4Nw7oz?}^CXB@#POgX$dbPkdaWA*mId{CU69B_n|=n3D-`SHi#$p#B7C2{Ml$b!W|GG=xl_1h8CrDbLz!+-dgWN>8F`|Ll{kX5Yi@;p;#x6fGM~1Wp@{^uMXfAq{gSNt
&@lA+Prv7)0Z9frym`NAO;#D-{8}T)j?WXU_Icfbx*Lc#nT{^HaF0nPEU{i$FnkOIgc2*HRB2VIto;*ibtyUSr<6;CO;CSnlwoM9$@fX$+d9h>*z*077)v_N+4&qWvwcF*
B)F87%WYx)d*~GbloquYv<(l0MXM<*(*=&sgI?2dwpgBaD>$GYGzNDJT=nr)313p2kVT|$su=v*u>^A$)qF$mUr(5rQ>caErmhfn%V+kZBGqS12Qw7VAH|88#NL=W*5wU>
^}h%9G1SmuzaO@R#DK9DX~-*b^SYAq@6Erw7Dzu)2Ehxr#D9p6Dzl6(r5BwrkJWH>ipP4onV;a>z9TS`ngd(PvmUF`7!*@UgR^G!<I#X#1y>q2SQ5^uSoT#@&<ij;i$^&P
uvJvt#_#PCYt4$0qGCdB8ZKu2hD{8Oz9oFeDwi`gO=BnD8wlg$8+Q*YDE<@y{VzQS`6rYQmD+=*c<W9|pefH}{wXcU@!)^$YxT`OHc}b$=7^YoQ&C8g5~j+;@QFQiXSco1
IGo46nLn!QHpIj%yhNDDo@(0`p|hsNz-PMD0X7g55rLBtF#%V`QF1v*QaF<%k8C0+yY)oViM^MnnT@XM)}ChQt#!zS=pIccyKp}ht=R~L`9UzW|HRXl*{shm$`%Sv>kD~?
=dX$-%_st(%(3!0Iu4j9;E4Og;-Xa)P|N6J`)W^?q*qq|Gm-wDn(`YIKy&$vjG}8b9dS`KEi_8jsX3%v9V!9xh+`E1)bw0K(q8E>&a)Vk{3gkZ?#7NK`$UU1(aG9_8?lhp
qo-^@NaF(ggG>o?(X5J_Xa<NT1URJ^a-LXBJNP!Z>&*v+(}bN^IQYdigK|dxdoG>8)yt1-x80w6Y*fh8HuOhhdCF`!hw#2pP+r8vVhP41XEQ5%eyb<wDS60|Dl#L|VQ~-s
j{y%``A)KVS*(!pUe-e*P+u-{yWH*S1qr{LRuTE!g|<~~079H9Uxv0Yqzt27X8sRT4-iIsEGOA!pR{{0sZv2h8zqvm3+Ar;S`RbPals*FLtwPNsF0{qmPftF1y6$0Zc&bR
u&d{`_Vgi&O;~~?I9>olcl07B^>p?rC#G>!$Xld=uo1+|n|+IFjOoXLq?kqSow2a0Q5%nTS-#|@*muGrb9bL760be%^^tKor8PwOrLPlxz*&$rtPD~|eVUor8GssLr@Ec2
U%BU$y-d=~eqNx~5U@C$AI9vIpQVg-Bz7{Qad|}JXWkc9&_TKea#9Z<`Xo8OMb@i(mLG`4A))z+kjO57%lh)-{~IEc7xZXGi1Z%pGP>IGfs;9sHsDE;bg6$r7|Ch&PBb^l
cSuRXDjON!6!;qoLoRp%Vjw2Wkmsm>TxY>eOiZSGm`*S2!P6L$nSr&&BgkR9*uG+-vYsIQFzq3ZkvnqLs#ios{s_O^G=)+RYw^@_?d^mh{>QAZ&)Z4D(h)#$+@<f6O21z%
^3|a7hnq6&f^eR3#^q6_28L{HV$}^^%s6fNLJx#37%t~ql?#98_;EL240@b%qASqND55~y`k+p$Oze$XR^9Fmw0u{>6Cm_vHrP0RHMnEE(_5@N+HpJj5rQZjYZ=6{%qP><
=|>wS234rVQKgC>pL>J2*}))=_PY;C7&?<eGPkfVQPFV<$z<zj-8A!r<}D$eyi+N0EEo2<b`FEk&t2B{2Q}!h#g(h#@+Q}r)8=KZ9hpI)1hmi$kO?L_isZ|<<tbY%ytV^Y
GcU)sp;bBHq&%1q_s_LfP4;x`<kutB{zYI+^|LK9<(yz-pai!+5{0c;kofUhGK;Qv?UIDBZDHn;ZYxzm`H1lJs>AZX%>uj`o{W`*T*OPM^*Wb1o3brcdlV04Mb5AL`q0tQ
;Q2f$VAKFi&@Jr{yEK-Y1ouPj^C<vaN~$t&8*d}pO&k4*wLu1h0NLR=H<&p7N{;C$A-xY2JVsh5YY>s;6BwU<I6$cK2%hTU@1a`!Q!hcj!yU_#2U~k2)Bdvp!;lrdI#dpq
xOMha?ARWASqoBL{qXF@8L;jV^N`<nUux5dIi6a~4arE<SttWAQ;|FM{dj0rkKA2V6wHHi<<E&qo~{H<+8nD{QW#RRiZqRg?yfhC6SIh%!W;||R`mAMHgSs8o7yA~yq~Qr
lSbfgM`hWL^LYf4vWiT*O?JSBHg(eo1=a@@sntvmOA*TQ5Xm8kwVySXDg}8B=H#kKdMQr8<OmlO=f7!o&kycm7s*SDCf@dVe>)X9!>6piDlX}rT<fqQ6@efsnNMz4ycP<e
)6C6sUZU*nj|-X4agb~Qg$Q%~0ybmcQ`V(5QG?1|@E`wHJVYEb4N>~$uHjqW)1}!82Z(Y}=#&a5gb|q{6Ps5va88~p<!Uh^q#JsW#j=z7$U}bSv<2uv+}`UlouyQ1bIPUq
b`BZdFNzb(^%J&RVze3Q(LseYjt+{&V|lXZ-!)pybib^pKJYlH{V&arklAI$Em-X~AQ%p%Ps;O3dnC^u)>tqTl1#s(Zt7RfpNf+vg&BW5*Wh$`n49SWnvsf)VGDQjhFhYq
mMdTa7V?r1EM$!l#Nv~np+{HPvS}TP*~p9ja`=NjGn$h9rK5Sz1nhVO<a@Axw~B?)%tPY}+-MW}`~?Jc44;H=u+-Wn#0ZT3W2h4gpJs#oNzr7_AR|V}CKQGjgHn(x8_t=h
{GOFLX_Jm0+I$=3t{}9%ocRr=9QuJz5zx<;BZnC$R0^-cD**%?@Xx3w%6;JKcBY|3d_3oDVt=<{5vU!QqJ<nyIBYozT&<r=+c|yH&np~#R23t?apOcE_)%H1GOrJb=xb?E
@-dHsI-?I%_ye%UaDrNM%_-jMWo*G7aYI-MIB@~pW4-kW#CQ2e&Jj~QNFM+C`#+4A^d#LsH8_I4Y%C7a#1NeSU@<A8Ru>(t7`5Do^FLX>^0d6wz?vu;U7o#z7s}Kd=w6LU
d}7$mrmn!8rp~0Kw>?2RKPGbvjZU*{K8}ZJ6xjIsBr{^vK_m&6wnv0frW^4Z2oGw45FEzvd%6SCq+`I~Hlx-@1dTWC9$pW%+Me4zc>JMlI9=8t!cn_RjLoRHMy*2vYUw^f
vccyk!ik|pk$ZO>!IDRTvN$#cKSPd5n}%UVL&O4esuiYGSDQS3L?=lD&8WgFFveNq3Q{cP<zxafSpX;3JkJA;IV;<|?pDZn8%ogzdzLI6eWWw0byJrbcIb!SJhf>Q;NMai
`09_ozyz`XI#^&ZOFHnW%ZsRe=uKWbf10Yn4Ys5m-;W8QTRGdQa8#4?8lZOE{UO-wgpKPpTF2K(*~6w>bVr1C`Rbjk#%K`x($<lA;g34GobJe%Bj)mTpI$DTJvL<}GOg^b
X#m)%;!Z}7uAs5?ek`on&<Z4{MpQ49(lR+;14`UAA$KU`lNJD;N%`YEgT6{;D`Nvy;P>gwpS>qypjdz_lXW0xVnX!zOi`N49m}QPo-yr_F)&QtHQ<<+#TFw7cCGv>>Gk!x
a=n893o}Epm6`)mk0RU(tjJ21RIHZW63I26ByLleZlbNsWs92+6u@T3lB$>xJ8q;FNf13n?DVQ+_#J&R-NUc$4AkM>FE3nra`RpJ_`e$qF$h2#oLIH7m_R5_k|<0*ONQkn
rj8>XBmJ!m3EFZcRCFVCcsWC=upRT6*Qg8-!(CAkPO*d8>AP-QNu)Tvg%^EpNu%dc=<)Wh_irGU&@}mXVp}WT`eiAcFE0@KPz^bjDaGEX*N{~C|J6oO;*FAt3cY6^FG9T-
zPzO9%%VLyAnE!p+IL2KusdA4MSOs4djDe^GFAC{K5wmZs!|8qF(y+Kup*7%JWZ64I|Yh@z(Wy_8Sq^(lD+lv6fNc;z)~M+7WhcaTI80^NW$^{_>&}BrJte>I!v^k^X975
{$DGo7SsTDUr}g_5t16-p^<e*f3k%)Z2H2$)>xQxQZb*N$Uu5kgl^VX+7~BdK%Of!_bcVz;U#?Mwm;}jJ~9w|!q-0W*Xm9MP&1y%b0_juX?m#*eWLIdH<?xu4~<)2cLyO%
r8ApIiVql)DoNHK1pmU9Yie7~-F%=ip3MWUQpE{!kt8YV>yDsv;<KX$lqT*Fc9LE3HXdAwi5V+WG5`bjEGEV9GDj}~(y#Nr=&g)Cu|Qalc;?$OaiFzG$d9$_s~CP9YT$vt
OeO9aKUYLfA=!rV+7rV<7--{}bzT%2Yr+zoR2x}wOnd-*LCsq=(lL?mKkK^rxz}Z}H0gFTgB=VFMzy}g*tkRs=Na?TlZ2VrV|To|c<_c)oq$o48L?7A!C!Jx`u>oXqVRK2
*RNCGsa+Z8q?2fD>$0v~E^$ZLo%D92rp4hh&FE0pxi$L{yY@#}$?;!zYoIvizvW+oCcc#H`V0`3l<&nEy*S%(>luPAK<h7cq5=#{kDBj1^}l9$Cx!I8ux$*1magLy=_*2I
r7p^{r4|DNcTjNP6<yEXps@wughcf^HDETi&;-s2!np(oia9UG$#A%Zj{Um}Svv#1a-nu*gOO{>%wpSbG5gcdF)4m(J$2Vzzpn+Eu%878RVF-wj5&}-DwFi0N=G9Jl@Aqy
9OgVW&BN$yv@@bPQ<}Zdw7%_b?f!4{vKOTRJ-)O#``kk>nXTN$S#*RVul>~@O2ZBUTID_zyTEFHM&rp_i9oNLNf_|&wscpEaxG2TlE9S31|UgPrQ`#tW(kscrBlqOL0^LG
=M<D-JmKA2`BtIF@!|o3zj7>uYK_g~TN(lrbOm6;y!9_i>Mo4PSIm1}XYIklB&&<10b6kO;i-bD$3;6J!=e+Pab99qP_{B&;X43GD|;M18!2%W2alLs!Q%*XCkFfL{pVw4
#Zd1dU9|+B(|Yn-_Rep6I3w?&uub25aH&AR@6MCNhz5bbrE!#BIy?mYDSi>$&jUfmc#ke?>~5Gx-gb=qURV&66qeL$kC8&C4laqM!LC>;;AlhTe)ZMJzcZZJpka5mWpxD%
LlY;)eL`H0b9^pMDWHVWcvCe5v9x0ey#m!CHu!y-cA!do;E9gY8Yx=2&)R@D^d065(`YS9PU4+BgDeW$5cW65rbG6sowBqs8Zc-sw|=<cP*b*g33A65z0FqZQ9c{TI3gz(
-uNCDu;J2~Mc$@of+kr!>rH>W@_Qj<Cr}sO-^jBOmU!HG7JdSt)+Fp*@+L|<#@LRv5sM5r9P-!dB*d?NA@#g0nOi{&Uovn3C$YQpdR&g*j*OpEWlUvuF>#ZK&JrG(&2IHn
_m!|k4;@yOg%hIu#W>QShz{t{e~<&G#(pmWYX+I&T9%^1gs0jV3+fzh4+Q_ukv_ryeS5ONw^@2cxzsq5Vr+4#4Y^Rx<_k<#B-c$eIT(Ha=MQMbTEIF*LDB3A29H&a-654}
RK1Q8d8nVr8ne~(qa;=*RxmXdxn5OubfB;T5U_Y-q;+T4wrcqm_?tT~S$y{1(M}m@H5^94yvWQInzm5BXu{W0es-GC2g>hPHj|Y$3muq$fiGIIFb1<NVpELo?!}k*mJ%yL
I1?zh%$W>lo2kNpL>*tvV(RNPZ+$=KbifcCFPliKLUA1s$Jp1(8sDNaBgkV0A?M_Uhsnf>8r>9whb!e8pf6}8*a%qsv8O9{;Nalr%9*FFQag_+<i97Q5Nqix8KfK#q*?D5
zREQ(tV#(rDl6guOgz6nm#8u^!>@M+K>1)Z=9K#<;;RIG%VM1`A<`A&@$xVm88_+vN-G9qeXAGOw~e`~kpJZSzn7(NM$hTe%KO@~v~@>jzMj4eH*Y+L8U@(vjHiu>%aS_W
T;YoVRx|z07$BosgIi0ff^1kbi%#R!sc~Qc_w^?y$QFPipjcg-Q|a3Y%a|!9NczODK}t<3wnKVhv8=!Bjy%Pi!aNVzP;TF{&@83@bAc5TmQ^;GhBj<@6pAoNapEG%g|@?L
YYML^W|!#EI$@h7QErTIC`61ApVQ{&69H<Gn2b#JDM9~`xvkOT7pPuDS3%*5cwoMi*4cmQ!bIhUYJ)ARn}coPHa&v<yG^)4D|!^4y6I?f)J(H~1xxN%q7gm?X&VY2#N5kF
0w7Z>pBbVOi9_znV|tKAe#TA@R~6<^qI@0FV399|A?!Ojua80S?nw<MIe{{pu{xPZDty}{XQ>X=>ND$PDLemLQ<_w3h}<K~9!A9@QXIVYml)OO62y@M=yA3!R`1?2qtxoT
946j^3_;*s-ANetXB(g<BH=l|J}KP^TB$)Ov2r3%#3Mg%Od_7eCPKA+8Cj5)W1#g0wsyeSev+>`oWB~a6>AOWQIB(c4w6{N*ibwtC9%(TwFNPE9SxdOq_gRN>GK>rC1F>G
JJGU(pn+)UsC(D4He15BLUhdF!o!eqmc?naDe5p-AI~0DG1ry@-$-^?i$#CWZ=mdl{bL$}dIjqbi@b%agsApMe0DY|0`xO`_3h5?lAN4{_Fc}DioN}uMt=J-wDA&Z2$<?y
xG<K&eBybO*pT)c^+ofzGiu;y@nMIZ0mf6VAGDSaK?4#m_Ip!2P}4crby`EWsV(thkZf-nY}x<04!3$$h@%$Zy?Kx;00000d~yAXo3Q3Q00Gu7tbzdmD9g0CvBYQl0ssI2
00dcD
"""
